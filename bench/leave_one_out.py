"""Exact leave-one-out of every head with many images: seconds, memory, and whether it is exact.

Made-up embeddings around a centre for each label. A head chooses its options once; its
leave-one-out log odds of all images are timed. Those of some are compared with the log odds by
heads that were fitted anew without the image, both in float64. `knn` has no closed form: it
compares each image with all others, and no bound is set for it.
"""

import argparse
import multiprocessing
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.harness import arguments, finish, memory, reset_peak
from models.heads.kinds import heads

ROWS, LABELS, DIMENSIONS = 100_000, 1000, 384
HEADS = ("cosine", "mahalanobis", "multi_centroid", "ridge", "blend", "knn")  # `auto`: one of them
SECONDS = 10.0
ALIKE = 1e-8
REFITTED = 3  # images that a head is fitted without, to compare


def main() -> None:
    """Run the benchmark: each head in a process of its own, so that memory is its own."""
    options = _options()
    if options.quick:
        options.rows, options.ways = 5000, 50
    found = {}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name in options.heads:
            found[name] = pool.apply(_measure, (name, options.rows, options.ways))
            print(f"{name}: " + ", ".join(f"{k} {v:.3g}" for k, v in found[name].items()))
    slowest = max(row["leave_one_out_seconds"] for n, row in found.items() if n != "knn")
    exact = max(row["largest_difference"] for row in found.values())
    headline = ", ".join(f"{n} {row['leave_one_out_seconds']:.1f} s" for n, row in found.items())
    finish(
        options,
        {"heads": found},
        f"{options.rows} x {options.ways} x {DIMENSIONS}: {headline}; off by at most {exact:.0e}",
        slowest <= SECONDS and exact <= ALIKE,
    )


def _options() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help="labeled images")
    parser.add_argument("--ways", type=int, default=LABELS, help="labels")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=HEADS)
    return parser.parse_args()


def _measure(name: str, rows: int, ways: int) -> dict[str, float]:
    embeddings, targets, mean = _world(rows, ways)
    head: Any = heads[name]
    fitted, fit = _timed(lambda: head(centered=True).fit(embeddings, targets, ways, mean))
    reset_peak()
    before = memory("VmRSS")
    _, seconds = _timed(lambda: fitted.leave_one_out(embeddings, targets))
    megabytes = memory("VmHWM") - before
    wide, off = embeddings.double(), 0.0
    exact = fitted.options.fit(wide, targets, ways, mean.double())
    for row in range(0, rows, -(-rows // REFITTED)):
        rest, one = torch.arange(rows) != row, slice(row, row + 1)
        again = fitted.options.fit(wide[rest], targets[rest], ways, mean.double())
        anew = (again.scores(wide[one]) / again.temperature)[0]
        left = exact.leave_one_out(wide[one], targets[one])[0]
        # Log odds: what is the same for all classes does not count.
        off = max(off, float((_centred(anew) - _centred(left)).abs().max()))
    return {
        "fit_seconds": fit,
        "leave_one_out_seconds": seconds,
        "megabytes": megabytes,
        "largest_difference": off,
    }


def _centred(odds: Tensor) -> Tensor:
    return odds - odds.logsumexp(dim=0)


def _world(rows: int, ways: int) -> tuple[Tensor, Tensor, Tensor]:
    chance = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(ways, DIMENSIONS, generator=chance), dim=1)
    targets = torch.arange(rows) % ways
    noise = torch.randn(rows, DIMENSIONS, generator=chance) / DIMENSIONS**0.5
    embeddings = F.normalize(centres[targets] + 1.5 * noise, dim=1).half()
    return embeddings, targets, embeddings.double().mean(dim=0).float()


def _timed(work: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


if __name__ == "__main__":
    main()
