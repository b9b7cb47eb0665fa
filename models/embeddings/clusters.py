"""Clusters of embeddings: k-means with a seed, and average linkage."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

ROUNDS = 50  # of Lloyd's algorithm at most


BLOCK_ROWS = 4096


class Clustering(NamedTuple):
    """Centres, and the cluster of each point."""

    centres: Float[Tensor, "K D"]
    groups: Int[Tensor, " N"]


def fit(points: Float[Tensor, "N D"], count: int, generator: Generator) -> Clustering:
    """k-means from k-means++ (Lloyd, 1982; Arthur & Vassilvitskii, 2007).

    A cluster that runs empty keeps its centre. There are at most as many clusters as points.
    """
    centres = points[kmeans_plus_plus(points, min(count, len(points)), generator)]
    groups = assign(points, centres)
    for _ in range(ROUNDS):
        sums = torch.zeros_like(centres, dtype=torch.float64)
        sums.index_add_(0, groups, points.double())
        sizes = torch.bincount(groups, minlength=len(centres))[:, None]
        centres = torch.where(sizes > 0, (sums / sizes.clamp_min(1)).float(), centres)
        before, groups = groups, assign(points, centres)
        if torch.equal(before, groups):
            break
    return Clustering(centres, groups)


def assign(points: Float[Tensor, "N D"], centres: Float[Tensor, "K D"]) -> Int[Tensor, " N"]:
    """The nearest centre of each point; of equals the first."""
    half = (centres**2).sum(dim=1) / 2
    return torch.cat(
        [(block @ centres.T - half).argmax(dim=1) for block in torch.split(points, BLOCK_ROWS)]
    )


def kmeans_plus_plus(
    points: Float[Tensor, "N D"], count: int, generator: Generator
) -> Int[Tensor, " K"]:
    """k-means++: each point drawn in proportion to its squared distance to those drawn before."""
    norms = (points**2).sum(dim=1)
    selected = [int(torch.randint(len(points), (), generator=generator))]
    distances = torch.full((len(points),), math.inf)
    for _ in range(count - 1):
        last = points[selected[-1]]
        to_last = (norms + norms[selected[-1]] - 2 * points @ last).clamp_min(0)
        distances = torch.minimum(distances, to_last)
        distances[selected[-1]] = 0
        selected.append(draw_by_weight(distances, selected, generator))
    return torch.tensor(selected)


def draw_by_weight(weights: Float[Tensor, " N"], selected: list[int], generator: Generator) -> int:
    """A position in proportion to its weight; where all weights are 0, one of those not chosen.

    By where a random number falls among the sums of weights in float64, so that what threads
    round differently moves a draw only when it falls right there.
    """
    sums = weights.double().cumsum(dim=0)
    if float(sums[-1]) <= 0:
        free = torch.ones(len(weights), dtype=torch.float64)
        free[selected] = 0
        sums = free.cumsum(dim=0)
    at = torch.rand((), generator=generator, dtype=torch.float64) * sums[-1]
    return min(int(torch.searchsorted(sums, at, right=True)), len(weights) - 1)


def average_linkage(points: Float[Tensor, "N D"], count: int) -> Int[Tensor, " N"]:
    """The cluster of each point when the two closest on average are merged until `count` are left.

    By chains of nearest neighbours (Murtagh, 1983), in N^2 memory and time: merges come in another
    order than the plain algorithm's, and make the same tree.
    """
    size = len(points)
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(math.inf)
    sizes = torch.ones(size)
    merges: list[tuple[float, int, int]] = []
    chain: list[int] = []
    alive = set(range(size))
    while len(alive) > 1:
        if not chain:
            chain.append(min(alive))
        nearest = int(distances[chain[-1]].argmin())
        if len(chain) > 1 and distances[chain[-1], chain[-2]] <= distances[chain[-1], nearest]:
            merged, absorbed = sorted((chain.pop(), chain.pop()))
            merges.append((float(distances[merged, absorbed]), merged, absorbed))
            total = sizes[merged] + sizes[absorbed]
            joined = (
                sizes[merged] * distances[merged] + sizes[absorbed] * distances[absorbed]
            ) / total
            distances[merged], distances[:, merged] = joined, joined
            distances[merged, merged] = math.inf
            distances[absorbed], distances[:, absorbed] = math.inf, math.inf
            sizes[merged] = total
            alive.remove(absorbed)
        else:
            chain.append(nearest)
    return _cut(size, sorted(merges, key=lambda merge: merge[0])[: max(0, size - count)])


def _cut(size: int, merges: list[tuple[float, int, int]]) -> Int[Tensor, " N"]:
    """Numbers of the clusters, in the order of their first points."""
    parent = list(range(size))

    def root(node: int) -> int:
        while parent[node] != node:
            node = parent[node]
        return node

    for _, first, second in merges:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    roots = [root(node) for node in range(size)]
    number = {representative: n for n, representative in enumerate(sorted(set(roots)))}
    return torch.tensor([number[representative] for representative in roots], dtype=torch.long)
