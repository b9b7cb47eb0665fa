"""Where the rest of a class lies, given a handful: learned from groups of embeddings."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from models.embeddings import clusters
from models.training.loop import Training

FEWEST = 8  # members of a group: one to hold out, five to condition on, and some to differ
MOST_CLUSTERS = 256
MOST_POINTS = 8192  # of the pool that are grouped and looked at


class TooFewGroups(ValueError):
    """There are too few groups to learn from; the message says what is missing."""


class Groups(NamedTuple):
    """Embeddings, centred and of unit length, and the group of each: a label, or a cluster."""

    points: Float[Tensor, "N D"]
    groups: Int[Tensor, " N"]
    labels: int  # the first groups are labels

    @property
    def total(self) -> int:
        """How many groups."""
        return int(self.groups.max()) + 1

    def only(self, kept: Sequence[int]) -> "Groups":
        """Some of them, renumbered."""
        number = torch.full((self.total,), -1)
        number[list(kept)] = torch.arange(len(kept))
        rows = (number[self.groups] >= 0).nonzero().flatten()
        labels = sum(group < self.labels for group in kept)
        return Groups(self.points[rows], number[self.groups[rows]], labels)


class Target(nn.Module, ABC):
    """Says where the rest of a class lies."""

    @abstractmethod
    def forward(
        self, means: Float[Tensor, "C D"], shots: Int[Tensor, " C"]
    ) -> Float[Tensor, "C D"]:
        """The mean of the rest of each class.

        Args:
            means: of the shots of each class, centred and of unit length before.
        """


class Sizes(NamedTuple):
    """How large what is learned will be."""

    dim: int
    groups: int
    points: int


@runtime_checkable
class TargetKind(Protocol):
    """The options of one way to say it."""

    def target(self, sizes: Sizes) -> Target:
        """One that knows nothing yet."""
        ...

    def start(self, target: Target, groups: Groups, seed: int) -> Training | None:
        """Let a target know groups; None: at once, otherwise as the training goes on."""
        ...


def group(
    labeled: Float[Tensor, "M D"],
    targets: Int[Tensor, " M"],
    pool: Float[Tensor, "N D"],
    *,
    seed: int,
) -> Groups:
    """Labels and clusters of the pool that have `FEWEST` members.

    Args:
        labeled: as heads see embeddings, centred and of unit length, as those of the pool.

    Raises:
        TooFewGroups: there are fewer than two, or all images are alike.
    """
    counts = torch.bincount(targets)
    labels = (counts >= FEWEST).nonzero().flatten().tolist()
    if len(pool) > MOST_POINTS:
        pool = pool[torch.linspace(0, len(pool) - 1, MOST_POINTS).long()]
    clustered = cluster_pool(pool, seed=seed)
    sizes = torch.bincount(clustered) if len(pool) else torch.zeros(0, dtype=torch.long)
    large = (sizes >= FEWEST).nonzero().flatten().tolist()
    _require(labels, large, counts, pool)
    number = torch.full((len(counts),), -1)
    number[labels] = torch.arange(len(labels))
    numbers = [number[targets]]
    if len(pool):
        of_cluster = torch.full((len(sizes),), -1)
        of_cluster[large] = torch.arange(len(large)) + len(labels)
        numbers.append(of_cluster[clustered])
    groups, points = torch.cat(numbers), torch.cat([labeled, pool])
    rows = (groups >= 0).nonzero().flatten()
    return Groups(points[rows], groups[rows], len(labels))


def cluster_pool(pool: Float[Tensor, "N D"], *, seed: int) -> Int[Tensor, " N"]:
    """The cluster of each image of the pool, by k-means with as many as the root of its size."""
    if not len(pool):
        return torch.zeros(0, dtype=torch.long)
    count = min(MOST_CLUSTERS, max(1, round(len(pool) ** 0.5)))
    return clusters.fit(pool, count, Generator().manual_seed(seed)).groups


def direction(vectors: Float[Tensor, "C D"]) -> Float[Tensor, "C D"]:
    """Of unit length."""
    return F.normalize(vectors, dim=1)


def _require(
    labels: Sequence[int],
    large: Sequence[int],
    counts: Int[Tensor, " C"],
    pool: Float[Tensor, "N D"],
) -> None:
    if len(labels) + len(large) >= 2:
        return
    if len(pool) >= 2 * FEWEST and len(large) == 1:
        raise TooFewGroups(
            f"the {len(pool)} images of the pool make one cluster: they are all alike; add "
            "others, or label some"
        )
    most = int(counts.max()) if len(counts) else 0
    raise TooFewGroups(
        f"two groups of {FEWEST} images are needed, and there are {len(labels)} label(s) with as "
        f"many (the largest has {most}) and {len(large)} cluster(s) of the {len(pool)} images of "
        "the pool: add images to labels, or to the pool"
    )
