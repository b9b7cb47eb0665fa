"""Least confidence sampling."""

from dataclasses import dataclass
from typing import ClassVar

from models.acquisition import DOUBT_SLOPE, Pool, Ranking, doubt
from models.acquisition.strategies import strategies


@strategies.register
@dataclass(frozen=True, kw_only=True)
class LeastConfidence:
    """Prefer images whose likeliest class is unlikely (Lewis & Gale, 1994).

    https://doi.org/10.1007/978-1-4471-2099-5_1
    """

    needs_classes: ClassVar[bool] = True

    def rank(self, pool: Pool, budget: int) -> Ranking:
        return pool.best(doubt, budget, slope=DOUBT_SLOPE)
