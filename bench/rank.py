"""Ranking a large pool by margin: how close to bare matrix products, and after one more label.

Also 1,000 rounds of labels at random on a small pool, after each of which the ranking by what was
remembered must be that of a full computation. Peers run on as many threads: scikit-activeml's
UncertaintySampling with the same head, and the 100 nearest of each centroid by faiss and by
pgvector, which is less than a ranking.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from app.inference.process import keep_freed_memory
from app.ranking.cosine_cache import Cosines
from app.vectors.matrices import POOL, Snapshot
from bench.data import made_up
from bench.figures import timed
from bench.harness import Options, Result, peers, run
from bench.processes import measured
from bench.tasks import ask_peer
from models.acquisition import BLOCK_ROWS, Pool, Ranking
from models.acquisition.strategies.margin import Margin
from models.heads import FittedHead
from models.heads.kinds.cosine import Cosine

LABELS = (10, 100, 1000)
MOST_SHOTS, BUDGET = 20, 100
PEER_ROWS = 20_000  # images that peers rank
SECONDS = {10: 1.0, 100: 4.0}  # by the number of labels
SHARE, LATER, MEGABYTES = 0.85, 0.15, 300
ALIKE = 1e-5  # scores that float32 may put in another order
KEY = UUID(int=0), UUID(int=1)


class World(NamedTuple):
    """Images around a centre for each label; the last ones are labeled."""

    everything: Snapshot
    truth: Tensor
    labels: int
    shots: int  # of each label

    def head(self, labeled: Tensor) -> FittedHead:
        """With the temperature that leave-one-out gives, as the service fits it."""
        return Cosine().fit(self.everything.vectors[labeled], self.truth[labeled], self.labels)


def measure(options: Options) -> Result:
    """Rank among few and many labels, and compare shortcuts with full computations."""
    keep_freed_memory()  # as the service does
    images, dimensions, rounds = (20_000, 128, 50) if options.quick else (1_000_000, 1280, 1000)
    rows = {str(k): _measure(images, dimensions, k, options.peers) for k in LABELS}
    alike = _rounds(rounds)
    parts = [
        f"{k} labels {row['seconds']:.2f} s, {100 * row['share']:.0f} % of bare products, "
        f"{row['after_one_label']:.2f} s after a label"
        for k, row in rows.items()
    ]
    goal_met = alike == rounds and all(
        row["seconds"] <= SECONDS.get(int(k), np.inf)
        and row["share"] >= SHARE
        and row["megabytes"] <= MEGABYTES
        and (int(k) > min(SECONDS) or row["after_one_label"] <= LATER)
        for k, row in rows.items()
    )
    headline = f"{images} x {dimensions}: " + "; ".join(parts)
    return Result({"labels": rows, "alike": alike, "rounds": rounds}, headline, goal_met)


def _world(images: int, dimensions: int, labels: int) -> World:
    shots = min(MOST_SHOTS, images // (2 * labels))
    vectors, truth = made_up(images, dimensions, labels, shots=shots, noise=1.5)
    ids = np.zeros((images, 16), np.uint8)
    ids[:, -4:] = np.arange(images, dtype=">u4").view(np.uint8).reshape(images, 4)
    everything = Snapshot(1, vectors, ids, np.full(images, POOL, np.int32), [])
    return World(everything, truth, labels, shots)


def _measure(images: int, dimensions: int, labels: int, peers: Path | None) -> dict[str, float]:
    world = _world(images, dimensions, labels)
    free = torch.arange(images - labels * world.shots)
    labeled = torch.arange(len(free), images)
    vectors, head = world.everything.vectors, world.head(labeled)
    pool = Pool(vectors, free, head.probabilities)
    _, bare = timed(partial(_products, vectors, head.centroids))
    whole, seconds, megabytes = measured(lambda: Margin().rank(pool, BUDGET))
    cosines = Cosines()

    def quick(head: FittedHead, rows: Tensor) -> Ranking:
        shortcut = cosines.shortcut(KEY, world.everything, head)
        return Margin().rank(Pool(vectors, rows, head.probabilities, shortcut=shortcut), BUDGET)

    quick(head, free)
    labeled = torch.cat([labeled, whole.indices[:1]])
    free = free[free != whole.indices[0]]
    head, fit = timed(lambda: world.head(labeled))
    _, later = timed(lambda: quick(head, free))
    row = {
        "bare_seconds": bare,
        "seconds": seconds,
        "share": bare / seconds,
        "fit_after_one_label": fit,
        "after_one_label": later,
        "megabytes": megabytes,
    }
    if peers:
        row |= _peers(peers, world, head, min(PEER_ROWS, len(free)))
    return row


def _products(vectors: Tensor, centroids: Tensor) -> None:
    """What no ranking can do without: upcast, multiply."""
    for block in torch.split(vectors, BLOCK_ROWS):
        block.float() @ centroids.T


def _rounds(count: int) -> int:
    """In how many rounds of a label at random, and now and then of new images, both agree."""
    world = _world(4000, 32, 10)
    generator = torch.Generator().manual_seed(0)
    labeled, cosines = torch.arange(3800, 4000)[::4], Cosines()
    images, alike = 3000, 0
    for number in range(count):
        images = min(4000, images + int(number % 10 == 9) * 5)
        unlabeled = torch.ones(images, dtype=torch.bool)
        unlabeled[labeled[labeled < images]] = False
        rows, head = unlabeled.nonzero().squeeze(1), world.head(labeled)
        every = world.everything
        part = Snapshot(
            number, every.vectors[:images], every.ids[:images], every.codes[:images], []
        )
        pool = Pool(part.vectors, rows, head.probabilities)
        shortcut = cosines.shortcut(KEY, part, head)
        quick = Margin().rank(replace(pool, shortcut=shortcut), BUDGET)
        alike += _alike(quick, Margin().rank(pool, BUDGET))
        new = rows[torch.randint(len(rows), (1,), generator=generator)]
        labeled = torch.cat([labeled, new])
    return alike


def _alike(first: Ranking, second: Ranking) -> bool:
    """The same images in the same order, but for scores that float32 cannot tell apart."""
    if not torch.allclose(first.scores, second.scores, atol=ALIKE):
        return False
    differ = first.indices != second.indices
    steps = first.scores.diff().abs()
    before, after = F.pad(steps, (1, 0), value=1.0), F.pad(steps, (0, 1))  # the last may tie
    tied = torch.minimum(before, after) < ALIKE  # with what is left out
    return bool((~differ | tied).all())


def _peers(python: Path, world: World, head: FittedHead, rows: int) -> dict[str, float]:
    """Seconds for a part of the images."""
    vectors = F.normalize(world.everything.vectors[:rows].float(), dim=1)
    pool = Pool(world.everything.vectors, torch.arange(rows), head.probabilities)
    _, ours = timed(lambda: Margin().rank(pool, BUDGET))
    question = {
        "vectors": vectors.numpy(),
        "centroids": head.centroids.numpy(),
        "temperature": head.temperature,
        "budget": BUDGET,
    }
    (answer,) = ask_peer(python, "rank", [question], threads=torch.get_num_threads())
    return {f"peers_rows_{rows}_{who}": s for who, s in [("ours", ours), *answer.items()]}


if __name__ == "__main__":
    run(measure, peers("scikit-activeml, faiss, pgvector"))
