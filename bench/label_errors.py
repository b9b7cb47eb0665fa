"""Likely label errors found, beside cleanlab.

Some labels are set to another class at random. Both sides score all labels: ours by leave-one-out
of the head, cleanlab by the recipe of its documentation, probabilities of a logistic regression by
five-fold cross-validation. cleanlab's scores of our probabilities show which part of a difference
is the head's. Peers run in an environment of their own (`make bench-peers`).
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.embeddings import data_set, digits
from bench.few_shot import PEERS
from bench.harness import ROOT, arguments, finish
from models.evaluation.label_errors import confident_joint, label_errors, label_quality
from models.heads.kinds.auto import Auto

NOISE = (0.05, 0.1)
TOLERANCE = 1.0  # points of the area under the precision-recall curve
FASTER = 20.0
QUICK = 600  # images


def main() -> None:
    """Run the benchmark."""
    options = _options()
    torch.set_num_threads(1)
    sets = [digits(options.encoder), *(data_set(one, options.encoder) for one in options.images)]
    table: dict[str, dict[str, float]] = {}
    for data in sets:
        shuffled = torch.randperm(len(data.targets), generator=torch.Generator().manual_seed(0))
        rows = shuffled[: QUICK if options.quick else None]
        for noise in NOISE[:1] if options.quick else NOISE:
            runs = [
                _run(data.train[rows], data.targets[rows], noise, seed, options.peers)
                for seed in range(1 if options.quick else options.repeats)
            ]
            key = f"{data.name}, {100 * noise:.0f} % wrong"
            table[key] = {k: round(sum(run[k] for run in runs) / len(runs), 4) for k in runs[0]}
            print(key, *(f"\n    {name:<42}{value:.4g}" for name, value in table[key].items()))
    _finish(options, table)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument(
        "--images", type=Path, nargs="*", default=[], help="folders of class folders, beside digits"
    )
    parser.add_argument("--encoder", default="efficientnet_lite:0")
    parser.add_argument("--repeats", type=int, default=5, help="draws of the wrong labels")
    parser.add_argument("--peers", type=Path, default=PEERS, help="their Python")
    return parser.parse_args()


def _run(vectors: Tensor, truth: Tensor, noise: float, seed: int, peers: Path) -> dict[str, float]:
    """The figures of one draw of wrong labels."""
    chance = torch.Generator().manual_seed(seed)
    classes = int(truth.max()) + 1
    wrong = torch.rand(len(truth), generator=chance) < noise
    other = torch.randint(1, classes, truth.shape, generator=chance)
    given = torch.where(wrong, (truth + other) % classes, truth)
    started = time.perf_counter()
    head = Auto().fit(vectors.float(), given, classes, vectors.float().mean(dim=0))
    probabilities = head.leave_one_out(vectors.float(), given).softmax(dim=1)
    quality = label_quality(probabilities, given)
    found = label_errors(probabilities, given)
    seconds = time.perf_counter() - started
    figures = {
        "handful: area": average_precision(-quality, wrong),
        "handful: seconds": seconds,
        "handful: listed": float(len(found.rows)),
        "handful: of these wrong": float(wrong[found.rows].float().mean()),
    }
    if not peers.exists():
        print(f"cleanlab: skipped, since {peers} is not there; make bench-peers")
        return figures
    theirs = _peer(peers, vectors, given, probabilities)
    for name, scores in theirs["scores"].items():
        figures[f"{name}: area"] = average_precision(-torch.tensor(scores), wrong)
    figures["cleanlab: seconds"] = theirs["seconds"]
    # Where several classes are confident, cleanlab takes the likeliest of all classes, the paper
    # (equation 1) the likeliest of the confident ones; so do we.
    apart = (torch.tensor(theirs["joint"]) - confident_joint(probabilities, given)).abs().sum()
    figures["confident joint: share apart"] = float(apart) / len(given)
    return figures


def average_precision(scores: Tensor, relevant: Tensor) -> float:
    """The area under the precision-recall curve: mean precision at each relevant item."""
    hits: Tensor = relevant[scores.argsort(descending=True, stable=True)].double()
    precision: Tensor = hits.cumsum(dim=0) / torch.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / float(hits.sum()))


def _peer(python: Path, vectors: Tensor, given: Tensor, probabilities: Tensor) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.npz"
        np.savez(
            path,
            vectors=vectors.float().numpy(),
            given=given.numpy(),
            probabilities=probabilities.numpy(),
        )
        done = subprocess.run(
            [python, ROOT / "bench/peers/cleanlab_errors.py", path],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _finish(options: argparse.Namespace, table: dict[str, dict[str, float]]) -> None:
    rows = list(table.values())

    def mean(name: str) -> float:
        return float(sum(row[name] for row in rows) / len(rows))

    headline = f"wrong labels found: area {mean('handful: area'):.3f}"
    kept = True
    if "cleanlab: area" in rows[0]:
        faster = mean("cleanlab: seconds") / mean("handful: seconds")
        headline += (
            f", cleanlab {mean('cleanlab: area'):.3f} and {faster:.0f} x slower; given our "
            f"probabilities cleanlab has {mean('cleanlab on ours: area'):.3f}"
        )
        behind = 100 * (mean("cleanlab: area") - mean("handful: area"))
        kept = behind <= TOLERANCE and faster >= FASTER
    finish(options, {"label_errors": table}, headline, kept)


if __name__ == "__main__":
    main()
