"""Margin sampling."""

from dataclasses import dataclass
from typing import ClassVar

from models.acquisition import CLOSENESS_SLOPE, Pool, Ranking, closeness
from models.acquisition.strategies import strategies


@strategies.register
@dataclass(frozen=True, kw_only=True)
class Margin:
    """Prefer images whose two likeliest classes are close (Scheffer et al., 2001).

    https://doi.org/10.1007/3-540-44816-0_31
    """

    needs_classes: ClassVar[bool] = True

    def rank(self, pool: Pool, budget: int) -> Ranking:
        return pool.best(closeness, budget, slope=CLOSENESS_SLOPE)
