"""Ranking a large pool by margin: how close to bare matrix products, and after one more label.

Also 1,000 rounds of labels at random on a small pool, after each of which the ranking by what was
remembered must be that of a full computation. Peers run in an environment of their own (`make
bench-peers`) on as many threads: scikit-activeml's UncertaintySampling with the same head, and the
100 nearest of each centroid by faiss and by pgvector, which is less than a ranking.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from app.inference.process import keep_freed_memory
from app.ranking.cosine_cache import Cosines
from app.vectors.matrices import POOL, Snapshot
from bench.few_shot import PEERS
from bench.harness import ROOT, arguments, finish, memory, reset_peak
from models.acquisition import BLOCK_ROWS, Pool, Ranking
from models.acquisition.strategies.margin import Margin
from models.heads import FittedHead
from models.heads.kinds.cosine import Cosine

MOST_SHOTS, BUDGET = 20, 100
SECONDS = {10: 1.0, 100: 4.0}  # by the number of labels
SHARE, LATER, MEGABYTES = 0.85, 0.15, 300
ALIKE = 1e-5  # scores that float32 may put in another order


class World(NamedTuple):
    """Images around a centre for each label; the last ones are labeled."""

    everything: Snapshot
    truth: Tensor
    labels: int

    def head(self, labeled: Tensor) -> FittedHead:
        """With the temperature that leave-one-out gives, as the service fits it."""
        return Cosine().fit(self.everything.vectors[labeled], self.truth[labeled], self.labels)


def main() -> None:
    """Run the benchmark."""
    options = _options()
    keep_freed_memory()  # as the service does
    images = options.rows or (20_000 if options.quick else 1_000_000)
    dimensions, rounds = (128, 50) if options.quick else (1280, 1000)
    rows = {str(k): _measure(images, dimensions, k, options) for k in options.labels}
    alike = _rounds(rounds)
    print(f"{alike} of {rounds} rankings after a label are those of a full computation")
    parts = [
        f"{k} labels {row['seconds']:.2f} s, {100 * row['share']:.0f} % of bare products, "
        f"{row['after_one_label']:.2f} s after a label"
        for k, row in rows.items()
    ]
    kept = alike == rounds and all(
        row["seconds"] <= SECONDS.get(int(k), np.inf)
        and row["share"] >= SHARE
        and row["megabytes"] <= MEGABYTES
        and (int(k) > min(SECONDS) or row["after_one_label"] <= LATER)
        for k, row in rows.items()
    )
    headline = f"{images} x {dimensions}: " + "; ".join(parts)
    finish(options, {"labels": rows, "alike": alike, "rounds": rounds}, headline, kept)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--rows", type=int, help="images; a million by default")
    parser.add_argument("--peer-rows", type=int, default=20_000, help="images that peers rank")
    parser.add_argument("--peers", type=Path, default=PEERS, help="their Python")
    return parser.parse_args()


def _world(images: int, dimensions: int, labels: int, seed: int = 0) -> World:
    chance = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(labels, dimensions, generator=chance), dim=1)
    truth = torch.randint(labels, (images,), generator=chance)
    shots = _shots(images, labels)
    truth[images - labels * shots :] = torch.arange(labels).repeat_interleave(shots)
    vectors = torch.empty(images, dimensions, dtype=torch.float16)
    for at in torch.split(torch.arange(images), 16_384):
        noise = torch.randn(len(at), dimensions, generator=chance) / dimensions**0.5
        vectors[at] = F.normalize(centres[truth[at]] + 1.5 * noise, dim=1).half()
    ids = np.zeros((images, 16), np.uint8)
    ids[:, -4:] = np.arange(images, dtype=">u4").view(np.uint8).reshape(images, 4)
    return World(Snapshot(1, vectors, ids, np.full(images, POOL, np.int32), []), truth, labels)


def _measure(
    images: int, dimensions: int, labels: int, options: argparse.Namespace
) -> dict[str, float]:
    world = _world(images, dimensions, labels)
    free = torch.arange(images - labels * _shots(images, labels))
    labeled = torch.arange(len(free), images)
    vectors, head = world.everything.vectors, world.head(labeled)
    pool = Pool(vectors, free, head.probabilities)
    _, bare = _timed(partial(_products, vectors, head.centroids))
    reset_peak()
    before = memory("VmRSS")
    whole, seconds = _timed(lambda: Margin().rank(pool, BUDGET))
    megabytes = memory("VmHWM") - before
    cosines, key = Cosines(), (UUID(int=0), UUID(int=1))

    def quick(head: FittedHead, rows: Tensor) -> Ranking:
        shortcut = cosines.shortcut(key, world.everything, head)
        part = Pool(vectors, rows, head.probabilities, shortcut=shortcut)
        return Margin().rank(part, BUDGET)

    quick(head, free)
    labeled = torch.cat([labeled, whole.indices[:1]])
    free = free[free != whole.indices[0]]
    head, fit = _timed(lambda: world.head(labeled))
    _, later = _timed(lambda: quick(head, free))
    row = {
        "bare_seconds": bare,
        "seconds": seconds,
        "share": bare / seconds,
        "fit_after_one_label": fit,
        "after_one_label": later,
        "megabytes": megabytes,
    }
    print(f"{labels} labels: " + ", ".join(f"{k} {v:.2f}" for k, v in row.items()), flush=True)
    if options.peers.exists():
        row |= _peers(options.peers, world, head, min(options.peer_rows, len(free)))
    else:
        print(f"peers: skipped, {options.peers} is not there; make bench-peers")
    return row


def _shots(images: int, labels: int) -> int:
    return min(MOST_SHOTS, images // (2 * labels))


def _products(vectors: Tensor, centroids: Tensor) -> None:
    """What no ranking can do without: upcast, multiply."""
    for block in torch.split(vectors, BLOCK_ROWS):
        block.float() @ centroids.T


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def _rounds(count: int) -> int:
    """In how many rounds of a label at random, and now and then of new images, both agree."""
    world = _world(4000, 32, 10)
    chance = torch.Generator().manual_seed(0)
    labeled, cosines, key = torch.arange(3800, 4000)[::4], Cosines(), (UUID(int=0), UUID(int=1))
    images, alike = 3000, 0
    for number in range(count):
        images = min(4000, images + int(number % 10 == 9) * 5)
        seen = torch.ones(images, dtype=torch.bool)
        seen[labeled[labeled < images]] = False
        rows, head = seen.nonzero().squeeze(1), world.head(labeled)
        every = world.everything
        part = Snapshot(
            number, every.vectors[:images], every.ids[:images], every.codes[:images], []
        )
        pool = Pool(part.vectors, rows, head.probabilities)
        shortcut = cosines.shortcut(key, part, head)
        quick = Margin().rank(replace(pool, shortcut=shortcut), BUDGET)
        alike += _alike(quick, Margin().rank(pool, BUDGET))
        new = rows[torch.randint(len(rows), (1,), generator=chance)]
        labeled = torch.cat([labeled, new])
    return alike


def _alike(first: Ranking, second: Ranking) -> bool:
    """The same images in the same order, but for scores that float32 cannot tell apart."""
    if not torch.allclose(first.scores, second.scores, atol=ALIKE):
        return False
    moved = first.indices != second.indices
    steps = first.scores.diff().abs()
    before, after = F.pad(steps, (1, 0), value=1.0), F.pad(steps, (0, 1))  # the last may tie
    near = torch.minimum(before, after) < ALIKE  # with what is left out
    return bool((~moved | near).all())


def _peers(python: Path, world: World, head: FittedHead, rows: int) -> dict[str, float]:
    """Seconds for a part of the images."""
    vectors = F.normalize(world.everything.vectors[:rows].float(), dim=1)
    pool = Pool(world.everything.vectors, torch.arange(rows), head.probabilities)
    _, ours = _timed(lambda: Margin().rank(pool, BUDGET))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(
            folder / "pool.npz",
            vectors=vectors.numpy(),
            centroids=head.centroids.numpy(),
            temperature=head.temperature,
        )
        done = subprocess.run(
            [python, ROOT / "bench/peers/rank.py", folder, str(BUDGET)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        )
    theirs: dict[str, float | None] = json.loads(done.stdout)
    found = {f"peers_rows_{rows}_ours": ours}
    print(f"  of {rows} images: ours {ours:.3f} s", end="")
    for peer, seconds in theirs.items():
        print(f", {peer} skipped" if seconds is None else f", {peer} {seconds:.3f} s", end="")
        if seconds is not None:
            found[f"peers_rows_{rows}_{peer}"] = seconds
    print(flush=True)
    return found


if __name__ == "__main__":
    main()
