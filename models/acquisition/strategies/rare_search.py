"""Rare search: find more images of a rare label."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from models.acquisition import NoClasses, Pool, Ranking, top
from models.acquisition.coverage import blockwise
from models.acquisition.strategies import strategies
from models.registry import require_within


@strategies.register
@dataclass(frozen=True, kw_only=True)
class RareSearch:
    """Prefer images that are likely of one label, among the neighbours of its labeled images.

    Similarity search for efficient active learning (Coleman et al., 2022, algorithm 1), with the
    probability of the label as the score. https://arxiv.org/abs/2007.00077

    Neighbours are found by exact search, `neighbours` for each labeled image of the label, of which
    the first `anchors` count. Images that are nobody's neighbour follow, when there are too few.
    """

    needs_classes: ClassVar[bool] = True

    label: str | None = None  # where it is not given, the one with fewest images
    neighbours: int = 100
    anchors: int = 100

    def __post_init__(self) -> None:
        require_within(self, "neighbours", 1, 10_000)
        require_within(self, "anchors", 1, 1000)

    def rank(self, pool: Pool, budget: int) -> Ranking:
        classify = pool.classify()
        if not len(pool):
            return Ranking(torch.empty(0, dtype=torch.long), torch.empty(0))
        target = self._target(pool)
        neighbours = self._near(pool, target)
        scores = pool.part(neighbours).map(lambda embeddings: classify(embeddings)[:, target])
        first = top(scores, budget)
        picks, values = neighbours[first.indices], first.scores
        if len(picks) < min(budget, len(pool)):
            free = torch.ones(len(pool), dtype=torch.bool)
            free[neighbours] = False
            remaining = free.nonzero().squeeze(1)
            probabilities = pool.part(remaining).map(
                lambda embeddings: classify(embeddings)[:, target]
            )
            more = top(probabilities, budget - len(picks))
            picks = torch.cat([picks, remaining[more.indices]])
            values = torch.cat([values, more.scores])
        return Ranking(picks, values)

    def _target(self, pool: Pool) -> int:
        """The number of the label.

        Raises:
            ValueError: it has no labeled image.
        """
        if not len(pool.labeled):
            raise NoClasses("this strategy needs at least two classes with labeled images")
        if self.label is None:
            shots = torch.bincount(pool.targets)
            return int(shots.where(shots > 0, len(pool.targets) + 1).argmin())
        if self.label not in pool.names:
            raise ValueError(f"no image has the label {self.label!r} yet; label one first")
        return pool.names.index(self.label)

    def _near(self, pool: Pool, target: int) -> torch.Tensor:
        """Positions of the neighbours of the label's images, in pool order."""
        anchors = pool.vectors(pool.labeled[pool.targets == target][: self.anchors])
        best = torch.zeros(len(pool), dtype=torch.bool)
        count = min(self.neighbours, len(pool))
        cosines = blockwise(
            lambda positions: pool.vectors(pool.rows[positions]) @ anchors.T,
            torch.arange(len(pool)),
        )  # (N, U)
        best[cosines.topk(count, dim=0).indices.flatten()] = True
        return best.nonzero().squeeze(1)
