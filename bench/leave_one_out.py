"""Exact leave-one-out of every head with many images: seconds, memory, and whether it is exact.

Made-up embeddings around a centre for each label. A head chooses its options once; its
leave-one-out log odds of all images are timed. Those of some are compared with the log odds by
heads that were fitted anew without the image, both in float64. `knn` has no closed form: it
compares each image with all remaining, and no bound is set for it.
"""

from typing import Any

import torch
from torch import Tensor

from bench.data import made_up
from bench.figures import timed
from bench.harness import Options, Result, run
from bench.processes import measured
from bench.tasks import alone
from models.heads.kinds import heads

DIMENSIONS = 384
HEADS = ("cosine", "mahalanobis", "multi_centroid", "ridge", "blend", "knn")  # `auto`: one of them
SECONDS = 10.0
ALIKE = 1e-8
REFITTED = 3  # images that a head is fitted without, to compare


def measure(options: Options) -> Result:
    """Each head in a process of its own, so that memory is its own."""
    images, labels = (5000, 50) if options.quick else (100_000, 1000)
    rows = {name: alone(_measure, name, images, labels) for name in HEADS}
    slowest = max(row["leave_one_out_seconds"] for name, row in rows.items() if name != "knn")
    error = max(row["largest_difference"] for row in rows.values())
    seconds = ", ".join(f"{n} {row['leave_one_out_seconds']:.1f} s" for n, row in rows.items())
    return Result(
        {"heads": rows},
        f"{images} x {labels} x {DIMENSIONS}: {seconds}; off by at most {error:.0e}",
        slowest <= SECONDS and error <= ALIKE,
    )


def _measure(name: str, images: int, labels: int) -> dict[str, float]:
    embeddings, targets = made_up(images, DIMENSIONS, labels, shots=images // labels, noise=1.5)
    mean = embeddings.double().mean(dim=0).float()
    head: Any = heads[name]
    fitted, fit = timed(lambda: head(centered=True).fit(embeddings, targets, labels, mean))
    _, seconds, megabytes = measured(lambda: fitted.leave_one_out(embeddings, targets))
    wide, off = embeddings.double(), 0.0
    exact = fitted.options.fit(wide, targets, labels, mean.double())
    for row in range(0, images, -(-images // REFITTED)):
        remaining, image = torch.arange(images) != row, slice(row, row + 1)
        refitted = fitted.options.fit(wide[remaining], targets[remaining], labels, mean.double())
        expected = (refitted.scores(wide[image]) / refitted.temperature)[0]
        scores = exact.leave_one_out(wide[image], targets[image])[0]
        # Log odds: what is the same for all classes does not count.
        off = max(off, float((_centred(expected) - _centred(scores)).abs().max()))
    return {
        "fit_seconds": fit,
        "leave_one_out_seconds": seconds,
        "megabytes": megabytes,
        "largest_difference": off,
    }


def _centred(odds: Tensor) -> Tensor:
    return odds - odds.logsumexp(dim=0)


if __name__ == "__main__":
    run(measure)
