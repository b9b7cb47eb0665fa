"""The same batches as scikit-activeml, in how much less time; and with a million images.

Embeddings are drawn around random centres, since only their geometry matters here. Peers run in an
environment of their own (`make bench-peers`), on as many threads.
"""

import argparse
import json
import os
import resource
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.few_shot import PEERS
from bench.harness import ROOT, arguments, finish
from models.acquisition import AcquisitionStrategy, Pool, of_labeled
from models.acquisition.strategies import strategies
from models.acquisition.strategies.badge import Badge
from models.acquisition.strategies.coreset import CoreSet
from models.acquisition.strategies.entropy import Entropy
from models.acquisition.strategies.margin import Margin
from models.acquisition.strategies.maxherding import MaxHerding
from models.acquisition.strategies.probcover import ProbCover
from models.heads.kinds.cosine import Cosine

SAME: dict[str, AcquisitionStrategy] = {
    "margin": Margin(),
    "entropy": Entropy(),
    "coreset": CoreSet(),
    "maxherding": MaxHerding(sigma=1.0, landmarks=20_000),
    "probcover": ProbCover(radius=0.9, landmarks=20_000),
}
SECONDS, GIGABYTES = 120, 8  # for a million images
GOALS = {"badge": 100, "maxherding": 20}  # times as fast as the peer


def main() -> None:
    """Run the benchmark."""
    options = _options()
    if options.million:
        _million(options)
        return
    images, budget = (2000, 20) if options.quick else (5000, 100)
    pool = make_pool(images, dimensions=64 if options.quick else 384, classes=20, shots=5)
    ours, seconds = {}, {}
    for name, strategy in SAME.items():
        ours[name], seconds[name] = _timed(strategy, pool, budget)
    badge_rows = 1000 if options.quick else 10_000
    many = make_pool(badge_rows, dimensions=64 if options.quick else 384, classes=100, shots=1)
    _, seconds["badge"] = _timed(Badge(), many, budget)
    if not options.peers.exists():
        print(f"scikit-activeml: skipped, since {options.peers} is not there; make bench-peers")
        finish(options, {"seconds": seconds}, "no peer to compare with", False)
        return
    theirs = _peers(options.peers, pool, many, ours, budget)
    _report(options, ours, seconds, theirs)


def make_pool(images: int, *, dimensions: int, classes: int, shots: int, seed: int = 0) -> Pool:
    """Float16 embeddings around a centre for each class, with labels and a head for some."""
    chance = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(classes, dimensions, generator=chance), dim=1)
    total = images + classes * shots
    own = torch.randint(classes, (total,), generator=chance)
    own[images:] = torch.arange(classes).repeat_interleave(shots)
    embeddings = torch.empty(total, dimensions, dtype=torch.float16)
    for rows in torch.split(torch.arange(total), 65_536):
        noise = torch.randn(len(rows), dimensions, generator=chance) / dimensions**0.5
        embeddings[rows] = F.normalize(centres[own[rows]] + noise, dim=1).half()
    labeled, targets = torch.arange(images, total), own[images:]
    head = Cosine(temperature=0.1).fit(embeddings[labeled], targets, classes)
    return Pool(embeddings, torch.arange(images), head.probabilities, labeled, targets)


def _timed(strategy: AcquisitionStrategy, pool: Pool, budget: int) -> tuple[list[int], float]:
    start = time.perf_counter()
    picks = strategy.rank(pool, budget).indices.tolist()
    return picks, time.perf_counter() - start


def _peers(
    python: Path, pool: Pool, many: Pool, ours: dict[str, list[int]], budget: int
) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "pool.npz", **_arrays(pool, "pool"), **_arrays(many, "badge"))
        (folder / "ours.json").write_text(json.dumps({"budget": budget, "picks": ours}))
        done = subprocess.run(
            [python, ROOT / "bench/peers/strategies.py", folder],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        )
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found


def _arrays(pool: Pool, prefix: str) -> dict[str, Any]:
    """What a peer needs: vectors as we see them, and our probabilities for them."""
    everything = torch.cat([pool.rows, pool.labeled])
    classify = pool.classify()
    probabilities: list[Tensor] = [
        classify(pool.embeddings[rows].float()) for rows in torch.split(everything, 4096)
    ]
    return {
        f"{prefix}_vectors": pool.vectors(everything).numpy(),
        f"{prefix}_probabilities": torch.cat(probabilities).numpy(),
        f"{prefix}_labeled": pool.labeled.numpy(),
        f"{prefix}_targets": pool.targets.numpy(),
    }


def _report(
    options: argparse.Namespace,
    ours: dict[str, list[int]],
    seconds: dict[str, float],
    theirs: dict[str, dict[str, float]],
) -> None:
    print(f"{'strategy':<12}{'same picks':>12}{'ours, s':>10}{'theirs, s':>11}{'faster':>9}")
    rows: dict[str, dict[str, float]] = {}
    for name, peer in theirs.items():
        times = peer["seconds"] / seconds[name]
        rows[name] = {**peer, "ours": seconds[name], "times": times}
        same = f"{100 * peer['agreement']:.0f} %" if "agreement" in peer else "drawn"
        print(f"{name:<12}{same:>12}{seconds[name]:>10.3f}{peer['seconds']:>11.2f}{times:>8.0f}x")
    print("uherding: skipped, since scikit-activeml 1.0.1 does not have it")
    agreed = min(peer["agreement"] for peer in theirs.values() if "agreement" in peer)
    fast = all(rows[name]["times"] >= goal for name, goal in GOALS.items())
    headline = (
        f"{100 * agreed:.0f} % of picks as scikit-activeml's; badge {rows['badge']['times']:.0f}, "
        f"maxherding {rows['maxherding']['times']:.0f} times as fast"
    )
    finish(options, {"strategies": rows}, headline, agreed == 1 and (fast or options.quick))


def _million(options: argparse.Namespace) -> None:
    """Seconds and memory of every strategy with a million images and a thousand classes."""
    images = 20_000 if options.quick else 1_000_000
    pool = make_pool(images, dimensions=384, classes=1000, shots=5)
    rows: dict[str, dict[str, float]] = {}
    of_pool = [name for name, kind in strategies.items() if not of_labeled(kind())]
    for name in options.only or of_pool:
        _, seconds = _timed(strategies[name](), pool, 100)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # of all so far
        rows[name] = {"seconds": seconds, "peak_gigabytes": peak}
        print(f"{name:<18}{seconds:>8.1f} s{peak:>8.2f} GB", flush=True)
    slowest = max(rows, key=lambda name: rows[name]["seconds"])
    peak = max(row["peak_gigabytes"] for row in rows.values())
    headline = (
        f"{images} images: at most {rows[slowest]['seconds']:.0f} s ({slowest}), {peak:.1f} GB"
    )
    kept = rows[slowest]["seconds"] <= SECONDS and peak <= GIGABYTES
    finish(options, {"strategies": rows}, headline, kept)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--million", action="store_true", help="a million images, without peers")
    parser.add_argument("--only", nargs="*", help="strategies to run with --million")
    parser.add_argument("--peers", type=Path, default=PEERS, help="their Python")
    return parser.parse_args()


if __name__ == "__main__":
    main()
