"""Refine: several strategies narrow the pool, then what is left is covered."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from models.acquisition import Pool, Ranking
from models.acquisition.coverage import LANDMARKS, Herding, gaussian, greedy
from models.acquisition.strategies import strategies
from models.registry import require_within

MEMBERS = ("margin", "entropy", "unknown_first", "typiclust")


@strategies.register
@dataclass(frozen=True, kw_only=True)
class Refine:
    """Keep what any of several strategies would pick, in rounds, then cover the pool with it.

    Progressive filtering by an ensemble, then coverage (2025, https://arxiv.org/abs/2511.22344).

    In the first of `rounds`, margin, entropy, unknown_first and typiclust pick `widest` images for
    each that is wanted, in the next half as many among what was kept, and so on; MaxHerding
    chooses among the last. Members and schedule are ours. Of a pool of more than `candidates`
    images, a uniform sample of that size takes part.
    """

    needs_classes: ClassVar[bool] = True

    rounds: int = 2
    widest: int = 8
    landmarks: int = LANDMARKS
    candidates: int = 100_000

    def __post_init__(self) -> None:
        require_within(self, "rounds", 1, 5)
        require_within(self, "widest", 1, 100)
        require_within(self, "landmarks", 1, 20_000)
        require_within(self, "candidates", 1, 1_000_000)

    def rank(self, pool: Pool, budget: int) -> Ranking:
        pool.classify()  # says that classes are missing
        remaining = pool.sample(max(self.candidates, budget))
        for number in range(self.rounds):
            count = budget * max(1, self.widest // 2**number)
            if count >= len(remaining):
                continue
            is_picked = torch.zeros(len(pool), dtype=torch.bool)
            for name in MEMBERS:
                is_picked[
                    remaining[strategies[name]().rank(pool.part(remaining), count).indices]
                ] = True
            remaining = is_picked.nonzero().squeeze(1)
        herding = Herding(pool, pool.sample(self.landmarks), gaussian(1.0))
        return greedy(herding, remaining, budget)
