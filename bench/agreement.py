"""Whether our pretraining losses are lightly's on the same features, and whose runs resume.

Losses are compared at the same weights, views and negatives. Then MoCo is stopped half-way, put
into a state dict, and goes on: how far is the encoder from that of a run that was not stopped?
lightly's memory bank is a buffer that its state dict leaves out; carried over by hand, it resumes.
"""

import json
import os
import subprocess
from pathlib import Path

from bench.few_shot import PEERS
from bench.harness import ROOT, arguments, finish

SAME = 1e-5  # relative difference of losses


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--peers", type=Path, default=PEERS, help="their Python")
    options = parser.parse_args()
    done = subprocess.run(
        [options.peers, ROOT / "bench/peers/lightly_agreement.py"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    found = json.loads(done.stdout.splitlines()[-1])
    apart = {name: abs(a - b) / abs(b) for name, (a, b) in found["losses"].items()}
    for name, (ours, theirs) in found["losses"].items():
        print(f"{name:<8}ours {ours:.6f}  lightly {theirs:.6f}  apart {apart[name]:.1e}")
    resumed = found["resumed_off_by"]
    headline = (
        f"{sum(one <= SAME for one in apart.values())} of {len(apart)} losses are lightly's; a "
        f"resumed MoCo is off by {resumed['handful']:g} (ours), {resumed['lightly']:.2g} (lightly)"
    )
    kept = max(apart.values()) <= SAME and resumed["handful"] == 0
    finish(options, found, headline, kept)


if __name__ == "__main__":
    main()
