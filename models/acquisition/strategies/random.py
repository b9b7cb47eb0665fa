"""Random sampling: the baseline that every other strategy must beat."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from models.acquisition import Pool, Ranking, top
from models.acquisition.strategies import strategies


@strategies.register
@dataclass(frozen=True, kw_only=True)
class Random:
    """Every image is as good as any other; the seed decides."""

    needs_classes: ClassVar[bool] = False

    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2^63 - 1, got {self.seed}")

    def rank(self, pool: Pool, budget: int) -> Ranking:
        generator = torch.Generator().manual_seed(self.seed)
        return top(torch.rand(len(pool), generator=generator), budget)
