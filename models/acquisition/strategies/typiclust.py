"""TypiClust: label what is typical."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.acquisition import Pool, Ranking
from models.acquisition.strategies import strategies
from models.embeddings.clusters import assign, fit
from models.registry import require_within

BLOCK_ROWS = 1024


CLUSTER = 5000  # images of a cluster that are compared


@strategies.register
@dataclass(frozen=True, kw_only=True)
class TypiClust:
    """Pick the most typical image of each cluster that has fewest labels (Hacohen et al., 2022).

    https://arxiv.org/abs/2202.02794

    There are as many clusters as labeled images and images to pick together, at most
    `max_clusters`. Those with fewest labeled images come first, then the largest; those below
    `min_size` only when nothing else is left. Typicality is the inverse of the mean distance to the
    `neighbours` nearest images of the cluster (equation 4).

    Exact up to `sample` images, labeled ones among them, and up to 5,000 in a cluster. Beyond,
    k-means is fitted to a uniform sample of that size, and only every n-th image of a cluster is
    looked at.
    """

    needs_classes: ClassVar[bool] = False

    max_clusters: int = 500
    min_size: int = 5
    neighbours: int = 20
    sample: int = 20_000

    def __post_init__(self) -> None:
        require_within(self, "max_clusters", 1, 2000)
        require_within(self, "min_size", 1, 1000)
        require_within(self, "neighbours", 1, 1000)
        require_within(self, "sample", 1, 100_000)

    def rank(self, pool: Pool, budget: int) -> Ranking:
        if not len(pool):
            return Ranking(torch.empty(0, dtype=torch.long), torch.empty(0))
        groups, labels = self._clusters(pool, budget)
        picks: list[int] = []
        scores: list[float] = []
        typicality: dict[int, tuple[list[int], list[float]]] = {}  # most typical last
        order = _order(groups, labels, self.min_size)
        while len(picks) < min(budget, len(pool)):
            for group in order:
                if group not in typicality:
                    typicality[group] = self._typicality(pool, groups, group)
                members, values = typicality[group]
                if members and len(picks) < budget:
                    picks.append(members.pop())
                    scores.append(values.pop())
        return Ranking(torch.tensor(picks), torch.tensor(scores))

    def _clusters(self, pool: Pool, budget: int) -> tuple[Int[Tensor, " N"], Int[Tensor, " K"]]:
        """The cluster of each image of the pool, and how many labeled ones each has."""
        rows = torch.cat([pool.rows, pool.covered])
        generator = pool.generator()
        points = torch.randperm(len(rows), generator=generator)[: self.sample].sort().values
        count = min(len(pool.covered) + budget, self.max_clusters)
        clusters = fit(pool.vectors(rows[points]), count, generator)
        if len(points) == len(rows):
            groups = clusters.groups
        else:
            groups = torch.cat(
                [assign(pool.vectors(b), clusters.centres) for b in torch.split(rows, BLOCK_ROWS)]
            )
        labels = torch.bincount(groups[len(pool) :], minlength=len(clusters.centres))
        return groups[: len(pool)], labels

    def _typicality(
        self, pool: Pool, groups: Int[Tensor, " N"], group: int
    ) -> tuple[list[int], list[float]]:
        """Positions of a cluster and how typical each is, the most typical last."""
        members = (groups == group).nonzero().squeeze(1)
        step = -(-len(members) // CLUSTER)
        sample = members[::step]
        points = pool.vectors(pool.rows[sample])
        neighbours = min(self.neighbours, len(sample) // 2)
        values = torch.zeros(len(members))  # what is not looked at comes last
        values[::step] = torch.cat(
            [
                _typical(pool.vectors(pool.rows[block]), block, points, sample, neighbours)
                for block in torch.split(sample, BLOCK_ROWS)
            ]
        )
        # Images that are equal but for rounding keep the order of the pool.
        order = (-(values * 1e4).round()).argsort(stable=True).flip(0)
        return members[order].tolist(), values[order].tolist()


def _typical(
    block: Float[Tensor, "B D"],
    positions: Int[Tensor, " B"],
    points: Float[Tensor, "K D"],
    point_positions: Int[Tensor, " K"],
    neighbours: int,
) -> Float[Tensor, " B"]:
    if not neighbours:
        return torch.ones(len(block))  # alone in its cluster
    squares = (2 - 2 * block @ points.T).clamp_min(0)
    squares = squares.where(squares > 1e-6, 0.0)  # what float32 rounds is no distance
    squares.masked_fill_(positions[:, None] == point_positions, torch.inf)  # itself
    nearest = squares.topk(min(neighbours, len(point_positions)), largest=False).values.sqrt()
    finite = nearest.where(nearest.isfinite(), 0)
    count = nearest.isfinite().sum(dim=1).clamp_min(1)
    return 1 / (finite.sum(dim=1) / count + 1e-5)


def _order(groups: Int[Tensor, " N"], labels: Int[Tensor, " K"], min_size: int) -> list[int]:
    """Clusters with fewest labels first, then the largest; the small ones after all others."""
    sizes = torch.bincount(groups, minlength=len(labels))
    keys = zip(
        (sizes + labels < min_size).tolist(), labels.tolist(), (-sizes).tolist(), strict=True
    )
    ranked = sorted((key, number) for number, key in enumerate(keys))
    return [number for _, number in ranked if sizes[number]]
