"""Core-set: leave no image far from a label."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.acquisition import Pool, Ranking
from models.acquisition.coverage import LANDMARKS, blockwise, greedy, representatives
from models.acquisition.strategies import strategies
from models.registry import require_within


@strategies.register
@dataclass(frozen=True, kw_only=True)
class CoreSet:
    """Pick the image farthest from all labeled and picked ones, again and again.

    k-center greedy (Sener & Savarese, 2018, algorithm 1). https://arxiv.org/abs/1708.00489

    Without a labeled image, the first pick is the one closest to the mean. Exact up to `landmarks`
    labeled images; of more, that many stand for them, the same share of each class. Of a pool of
    more than `candidates` images, a uniform sample of that size may be picked.
    """

    needs_classes: ClassVar[bool] = False

    landmarks: int = LANDMARKS
    candidates: int = 200_000

    def __post_init__(self) -> None:
        require_within(self, "landmarks", 1, 100_000)
        require_within(self, "candidates", 1, 1_000_000)

    def rank(self, pool: Pool, budget: int) -> Ranking:
        covered = torch.cat([representatives(pool, self.landmarks), pool.pending])
        candidates = pool.sample(max(self.candidates, budget))
        farthest = _Farthest(pool.part(candidates), covered)
        picks, squares, _ = greedy(farthest, torch.arange(len(candidates)), budget)
        return Ranking(candidates[picks], squares.clamp_max(4).sqrt())


class _Farthest:
    """Squared distances to the nearest labeled or picked image."""

    def __init__(self, pool: Pool, covered: Int[Tensor, " V"]) -> None:
        self._pool = pool
        self._centres = torch.empty(0, pool.embeddings.shape[1])  # picked images
        if len(covered):
            centres = pool.vectors(covered)  # (V, D)
            self._base = blockwise(lambda p: self._nearest(p, centres), torch.arange(len(pool)))
        else:
            self._base = torch.full((len(pool),), 4.0)  # the most between unit vectors
            if len(pool):
                self._base[_most_central(replace(pool, mean=None))] = 5  # goes first

    def gains(self, positions: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The squared distance of each to the nearest, as of now."""
        base = self._base[positions]
        if not len(self._centres):
            return base
        return torch.minimum(base, self._nearest(positions, self._centres))

    def take(self, position: int) -> None:
        """Make an image a centre."""
        self._centres = torch.cat([self._centres, self._pool.vectors(self._pool.rows[[position]])])

    def _nearest(
        self, positions: Int[Tensor, " B"], centres: Float[Tensor, "V D"]
    ) -> Float[Tensor, " B"]:
        cosines = self._pool.vectors(self._pool.rows[positions]) @ centres.T  # (B, V)
        squares = 2 - 2 * cosines.amax(dim=1)
        return squares.where(squares > 1e-6, 0.0)  # what float32 rounds is no distance


def _most_central(pool: Pool) -> int:
    total = sum(
        (pool.vectors(block).double().sum(dim=0) for block in torch.split(pool.rows, 4096)),
        torch.zeros(pool.embeddings.shape[1], dtype=torch.float64),
    )
    mean = (total / len(pool)).float()
    return int(
        blockwise(lambda p: pool.vectors(pool.rows[p]) @ mean, torch.arange(len(pool))).argmax()
    )
