"""Cluster-margin: small margins from many clusters."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from models.acquisition import CLOSENESS_SLOPE, Pool, Ranking, closeness
from models.acquisition.strategies import strategies
from models.embeddings.clusters import average_linkage
from models.registry import require_within

FEWEST = 1000  # images that are clustered, where there are as many


@strategies.register
@dataclass(frozen=True, kw_only=True)
class ClusterMargin:
    """Pick among the images of the smallest margin, by turns from each of their clusters.

    Citovsky et al., 2021, algorithms 1 and 2. https://arxiv.org/abs/2107.14263

    Small clusters come first, as in the paper. There the whole pool is clustered once; here, since
    the encoder may change and the pool grow, only the images of the smallest margin are, by
    average linkage into `clusters` clusters for each pick. At most 10,000 images are clustered,
    and at least as many as are to be picked.
    """

    needs_classes: ClassVar[bool] = True

    filter: int = 10  # images that margin keeps for each that is picked
    clusters: float = 2.0  # for each image that is picked

    def __post_init__(self) -> None:
        require_within(self, "filter", 1, 1000)
        require_within(self, "clusters", 0.1, 100)

    def rank(self, pool: Pool, budget: int) -> Ranking:
        size = max(min(max(self.filter * budget, FEWEST), 10_000), budget)
        doubtful, margins, _ = pool.best(closeness, size, slope=CLOSENESS_SLOPE)
        if not len(doubtful):
            return Ranking(doubtful, margins)
        groups = average_linkage(
            pool.vectors(pool.rows[doubtful]), max(1, round(self.clusters * budget))
        )
        order = torch.bincount(groups).argsort(stable=True).tolist()
        waiting = {group: (groups == group).nonzero().flatten().tolist() for group in order}
        places: list[int] = []
        while len(places) < min(budget, len(doubtful)):
            for group in order:
                if waiting[group] and len(places) < budget:
                    places.append(waiting[group].pop(0))  # of the smallest margin
        return Ranking(doubtful[places], margins[places])
