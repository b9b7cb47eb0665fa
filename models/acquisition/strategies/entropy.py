"""Entropy sampling."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from models.acquisition import Pool, Ranking, top
from models.acquisition.strategies import strategies


@strategies.register
@dataclass(frozen=True, kw_only=True)
class Entropy:
    """Prefer images whose class is most uncertain (Shannon, 1948), in nats.

    https://doi.org/10.1002/j.1538-7305.1948.tb01338.x
    """

    needs_classes: ClassVar[bool] = True

    def rank(self, pool: Pool, budget: int) -> Ranking:
        return top(pool.score(lambda p: torch.special.entr(p).sum(dim=1)), budget)
