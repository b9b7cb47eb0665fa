"""Two random views of each image: images a second on one thread, beside lightly's transforms.

The same operations at the same strengths (those of SimCLR), on the same decoded images in memory.
Ours and lightly's take turns, so that both meet the same machine.
"""

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

import torch
from torch import Generator

from bench.few_shot import PEERS
from bench.harness import ROOT, arguments, finish
from models.pretraining.views import Views
from models.training.loop import as_values

GOALS = {32: 5.0, 64: 3.0, 128: 0.0}  # times lightly, by the side of the images in pixels
BATCH = 64


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each figure")
    parser.add_argument("--peers", type=Path, default=PEERS, help="their Python")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 2, 0.2
    torch.set_num_threads(1)
    ours: dict[int, list[float]] = {side: [] for side in GOALS}
    theirs: dict[int, list[float]] = {side: [] for side in GOALS}
    for _ in range(options.rounds):
        for side, speed in _lightly(options).items():
            theirs[side].append(speed)
        for side in GOALS:
            ours[side].append(_speed(side, options.seconds))
    _finish(options, ours, theirs)


def _speed(side: int, seconds: float) -> float:
    """Images a second, two views each."""
    chance = Generator().manual_seed(side)
    images = torch.randint(0, 256, (BATCH, 3, side, side), dtype=torch.uint8, generator=chance)
    views = Views(crop=0.08, colour=1.0)
    done, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        values = as_values(images)
        for _ in range(2):
            views(values, chance)
        done += BATCH
    return done / passed


def _lightly(options: argparse.Namespace) -> dict[int, float]:
    command = [options.peers, ROOT / "bench/peers/lightly_views.py", str(options.seconds)]
    done = subprocess.run(
        [*command, *map(str, GOALS)], check=True, stdout=subprocess.PIPE, text=True
    )
    return {int(side): speed for side, speed in json.loads(done.stdout).items()}


def _finish(
    options: argparse.Namespace, ours: dict[int, list[float]], theirs: dict[int, list[float]]
) -> None:
    result = {}
    for side in GOALS:
        ratios = [one / other for one, other in zip(ours[side], theirs[side], strict=True)]
        result[side] = {
            "ours": _range(ours[side]),
            "lightly": _range(theirs[side]),
            "ratio": _range(ratios),
        }
        print(f"{side} px: {result[side]}")
    medians = {side: result[side]["ratio"]["median"] for side in GOALS}
    shown = ", ".join(f"{ratio:.1f} x at {side} px" for side, ratio in medians.items())
    kept = all(medians[side] >= goal for side, goal in GOALS.items())
    headline = f"two views of each image on one thread, against lightly: {shown}"
    finish(options, {"images_per_second": result}, headline, kept)


def _range(values: list[float]) -> dict[str, float]:
    return {
        "min": round(min(values), 2),
        "median": round(statistics.median(values), 2),
        "max": round(max(values), 2),
    }


if __name__ == "__main__":
    main()
