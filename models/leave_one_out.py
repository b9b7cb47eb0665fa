"""What the cosine head says of each support image when it is fitted to all the others."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

ROWS_PER_BLOCK = 4096


@runtime_checkable
class CosineHead(Protocol):
    """A fitted head that compares with class means by cosine."""

    @property
    def temperature(self) -> float: ...

    @property
    def mean(self) -> Float[Tensor, " D"] | None: ...


def leave_one_out(
    embeddings: Float[Tensor, "M D"],
    targets: Int[Tensor, " M"],
    classes: int,
    *,
    temperature: float,
    mean: Float[Tensor, " D"] | None = None,
) -> Float[Tensor, "M C"]:
    """Class probabilities of each image by centroids without it, in closed form and float64.

    Only the centroid of the image's own class changes: it is the sum of the others. The only image
    of a class leaves none behind, so the class has a probability of 0.

    Args:
        mean: subtracted first, as of all images with and without labels; None: not centred.
    """
    sums = torch.zeros(classes, embeddings.shape[1], dtype=torch.float64)
    for rows in torch.split(torch.arange(len(embeddings)), ROWS_PER_BLOCK):
        sums.index_add_(0, targets[rows], _centred(embeddings[rows], mean))
    shots = torch.bincount(targets, minlength=classes)
    centroids = F.normalize(sums, dim=1)
    return torch.cat(
        [
            _without_own(_centred(embeddings[rows], mean), targets[rows], sums, centroids, shots)
            .div(temperature)
            .softmax(dim=1)
            for rows in torch.split(torch.arange(len(embeddings)), ROWS_PER_BLOCK)
        ]
    )


def _without_own(
    queries: Float[Tensor, "B D"],
    targets: Int[Tensor, " B"],
    sums: Float[Tensor, "C D"],
    centroids: Float[Tensor, "C D"],
    shots: Int[Tensor, " C"],
) -> Float[Tensor, "B C"]:
    """Cosines, where the own class is that of the other images."""
    units = F.normalize(queries, dim=1)
    cosines = units @ centroids.T
    own = F.normalize(sums[targets] - queries, dim=1)
    alone = (units * own).sum(dim=1).masked_fill(shots[targets] == 1, -torch.inf)
    return cosines.scatter(1, targets[:, None], alone[:, None])


def _centred(
    embeddings: Float[Tensor, "M D"], mean: Float[Tensor, " D"] | None
) -> Float[Tensor, "M D"]:
    wide = embeddings.double()
    return wide if mean is None else F.normalize(wide - mean.double(), dim=1)
