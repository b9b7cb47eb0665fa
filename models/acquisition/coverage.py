"""Covering a pool greedily: each pick is the image that adds most to what the others cover.

What an image adds only shrinks while others are picked, so what it added when it was last looked at
bounds what it adds now, and only images with the highest bounds are looked at again (Minoux, 1978).
The picks are those of the plain greedy algorithm.
"""

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.acquisition import Pool, Ranking

BLOCK_ROWS = 1024  # candidates compared with all landmarks at a time


LANDMARKS = 5000  # images that stand for a larger pool


CANDIDATES = 50_000  # images of a larger pool that may be picked


KEPT = 1 << 26  # similarities that are kept rather than computed again: 256 MB


@runtime_checkable
class CoverageObjective(Protocol):
    """What is covered so far."""

    def gains(self, positions: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """What each image of the pool would add now; never more than earlier."""
        ...

    def take(self, position: int) -> None:
        """Add an image to what is covered."""
        ...


def greedy(objective: CoverageObjective, candidates: Int[Tensor, " K"], budget: int) -> Ranking:
    """Pick at most `budget` candidates, each the one that adds most.

    Gains that differ by less than what float32 rounds are equal, and of equals the first is taken:
    so the picks do not depend on how a matrix product was split among threads.
    """
    bounds = blockwise(objective.gains, candidates)
    noise = 1e-7 * float(bounds.max()) if len(bounds) else 0.0
    fresh = torch.ones(len(bounds), dtype=torch.bool)
    picks: list[int] = []
    scores: list[float] = []
    for _ in range(min(budget, len(candidates))):
        best = _settle(objective, candidates, bounds, fresh, noise)
        scores.append(float(bounds[best].clamp_min(0)))
        picks.append(best)
        bounds[best] = -math.inf
        objective.take(int(candidates[best]))
        fresh = bounds == -math.inf
    return Ranking(candidates[torch.tensor(picks, dtype=torch.long)], torch.tensor(scores))


def blockwise(function: Callable[[Tensor], Tensor], positions: Int[Tensor, " K"]) -> Tensor:
    """A function of positions, block by block."""
    if not len(positions):
        return torch.empty(0)
    return torch.cat([function(block) for block in torch.split(positions, BLOCK_ROWS)])


def _settle(
    objective: CoverageObjective,
    candidates: Int[Tensor, " K"],
    bounds: Float[Tensor, " K"],
    fresh: Tensor,
    noise: float,
) -> int:
    """Update bounds until the best is known, and the first of its equals; which it is."""
    look = 64  # doubles, so that many updates cost no more than all of them at once
    while True:
        highest = float(bounds.max())
        level = highest - noise - 1e-6 * abs(highest)
        best = bounds >= level
        first = int(best.int().argmax())
        if highest <= noise or bool(fresh[first]):
            return first
        stale = bounds.masked_fill(fresh, -math.inf)
        outdated = stale.topk(min(look, len(stale))).indices
        outdated = torch.cat(
            [outdated[(~fresh[outdated]) & (outdated != first)], torch.tensor([first])]
        )
        bounds[outdated] = blockwise(objective.gains, candidates[outdated])
        fresh[outdated] = True
        look *= 2


Kernel = Callable[[Tensor], Tensor]  # from cosines to similarities, 0..1


def gaussian(sigma: float) -> Kernel:
    """exp(-||x - y||^2 / sigma^2) for unit vectors."""
    return lambda cosines: (cosines.clamp_max(1) - 1).mul_(2 / sigma**2).exp_()


def ball(radius: float) -> Kernel:
    """Whether two unit vectors are within `radius` of each other."""
    # What float32 rounds must not put an image outside of its own ball.
    return lambda cosines: (cosines >= 1 - radius**2 / 2 - 1e-6).float()


class Herding:
    """How well each landmark is covered by the most similar image that has or gets a label.

    An image x adds mean_a w_a max(k(a, x) - max_l k(a, l), 0), over landmarks a and what is covered
    l. With all images of the pool as landmarks nothing is approximated.
    """

    def __init__(
        self,
        pool: Pool,
        landmarks: Int[Tensor, " A"],
        kernel: Kernel,
        weights: Float[Tensor, " A"] | None = None,
    ) -> None:
        self._pool, self._kernel = pool, kernel
        self._points = pool.vectors(pool.rows[landmarks])
        if weights is None:
            weights = torch.ones(len(landmarks))
        self._weights = weights / max(len(landmarks), 1)
        self._kept: Tensor | None = None
        if len(pool) * len(landmarks) <= KEPT:
            blocks = torch.split(torch.arange(len(pool)), BLOCK_ROWS)
            self._kept = torch.cat([self._similarities(block) for block in blocks])
        self._reached = torch.zeros(len(landmarks))
        for block in torch.split(pool.covered, BLOCK_ROWS):
            if len(block) and len(landmarks):
                similarity = kernel(pool.vectors(block) @ self._points.T).amax(dim=0)
                self._reached = torch.maximum(self._reached, similarity)

    def gains(self, positions: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """What each would add to the mean coverage."""
        return (self._similarities(positions) - self._reached).clamp_min_(0) @ self._weights

    def take(self, position: int) -> None:
        """Cover what the image reaches."""
        reach = self._similarities(torch.tensor([position])).squeeze(0)
        self._reached = torch.maximum(self._reached, reach)

    def _similarities(self, positions: Int[Tensor, " B"]) -> Float[Tensor, "B A"]:
        if self._kept is not None:
            return self._kept[positions]
        return self._kernel(self._pool.vectors(self._pool.rows[positions]) @ self._points.T)


def width(pool: Pool, *, least: float = 0.05, images: int = LANDMARKS) -> float:
    """The smallest distance between two labeled images, or 1 while there are less than two.

    Narrower than `least` a kernel covers nothing but duplicates. Beyond `images` labeled images,
    the distance is between the first so many.
    """
    points = pool.vectors(pool.labeled[:images])
    if len(points) < 2:
        return 1.0
    nearest = 2.0
    for start in range(0, len(points), BLOCK_ROWS):
        cosines = points[start : start + BLOCK_ROWS] @ points.T
        rows = torch.arange(len(cosines))
        cosines[rows, rows + start] = -1
        nearest = min(nearest, float((2 - 2 * cosines.amax()).clamp_min(0).sqrt()))
    return max(nearest, least)


def representatives(pool: Pool, size: int) -> Int[Tensor, " U"]:
    """Rows of labeled images: all up to `size`, beyond that a sample with each class's share."""
    if len(pool.labeled) <= size:
        return pool.labeled
    order = pool.targets.argsort(stable=True)
    evenly = torch.linspace(0, len(order) - 1, size).long()
    return pool.labeled[order[evenly]]
