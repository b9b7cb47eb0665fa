"""How unlike all labeled images an image is: distances, also without an image itself."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from models.heads import ROWS_PER_BLOCK, class_means
from models.heads.scatter import Scatter, spectrum

STRENGTH = 1.0  # of shrinkage, as Kubokawa and Srivastava (2008) have it


class NoveltyMeasure(Protocol):
    """How unlike all labeled images an image is; it sees embeddings as heads do."""

    def scores(self, normalized: Float[Tensor, "Q D"]) -> Float[Tensor, " Q"]:
        """The higher, the less like any class."""
        ...

    def leave_one_out_scores(
        self, normalized: Float[Tensor, "K D"], targets: Int[Tensor, " K"]
    ) -> Float[Tensor, " K"]:
        """Of labeled images, each by a measure without it; their classes have other shots too."""
        ...


@dataclass(frozen=True)
class NeighbourDistance:
    """Distance to the nearest labeled image (Sun et al., 2022, with k = 1).

    https://arxiv.org/abs/2204.06507
    """

    support: Float[Tensor, "M D"]  # of unit length
    targets: Int[Tensor, " M"]

    @classmethod
    def fit(
        cls, normalized: Float[Tensor, "M D"], targets: Int[Tensor, " M"], classes: int
    ) -> "NeighbourDistance":
        """Remember the images."""
        return cls(F.normalize(normalized, dim=1), targets)

    def scores(self, normalized: Float[Tensor, "Q D"]) -> Float[Tensor, " Q"]:
        """Distances between unit vectors."""
        blocks = torch.split(F.normalize(normalized, dim=1), ROWS_PER_BLOCK)
        return torch.cat([_least_distance(block @ self.support.T) for block in blocks])

    def leave_one_out_scores(
        self, normalized: Float[Tensor, "K D"], targets: Int[Tensor, " K"]
    ) -> Float[Tensor, " K"]:
        """The image itself, the nearest of its class, does not count."""
        cosines = F.normalize(normalized, dim=1) @ self.support.T
        same_class = cosines.masked_fill(targets[:, None] != self.targets, -torch.inf)
        return _least_distance(
            cosines.scatter(1, same_class.argmax(dim=1, keepdim=True), -torch.inf)
        )


@dataclass(frozen=True)
class RelativeMahalanobis:
    """Least squared distance to a class mean, less that to the mean of all (Ren et al., 2021).

    https://arxiv.org/abs/2106.09022. The first is under the covariance within classes, the second
    under that of all images; both are shrunk as in the Mahalanobis head. Deviating from the paper,
    the mean of all is not that of the labeled images but the origin that `center_and_normalize`
    chose: the mean of all images of the project, among which there may be some of unseen classes.
    """

    within: Scatter
    whole: "_Whole"

    @classmethod
    def fit(
        cls, normalized: Float[Tensor, "M D"], targets: Int[Tensor, " M"], classes: int
    ) -> "RelativeMahalanobis":
        """Learn both covariances."""
        shots = torch.bincount(targets, minlength=classes)
        means = class_means(normalized, targets, shots)
        whole = _Whole(len(targets), *spectrum(normalized.double()))
        return cls(Scatter.of(normalized, targets, means, shots), whole)

    def scores(self, normalized: Float[Tensor, "Q D"]) -> Float[Tensor, " Q"]:
        """min_c MD_c - MD_0."""
        squares = self.within.squares(normalized, STRENGTH)
        return squares.min(dim=1).values - self.whole.squares(normalized)

    def leave_one_out_scores(
        self, normalized: Float[Tensor, "K D"], targets: Int[Tensor, " K"]
    ) -> Float[Tensor, " K"]:
        """By taking the image's part out of both covariances and of its class mean."""
        distances = self.within.downdated(self.within.rows(normalized, targets), STRENGTH)
        squares = distances.length[:, None] - 2 * distances.scores
        squares = squares.scatter(1, targets[:, None], distances.to_own_class[:, None])
        return squares.min(dim=1).values - self.whole.leave_one_out_squares(normalized)


class _Whole(NamedTuple):
    """The eigenvectors of the mean of x x' over unit vectors x, whose trace is 1."""

    images: int
    eigenvalues: Float[Tensor, " E"]  # times the number of images
    basis: Float[Tensor, "D E"]

    def squares(self, normalized: Float[Tensor, "Q D"]) -> Float[Tensor, " Q"]:
        """Squared distances to the origin, under the inverse after shrinkage."""
        return self._lengths(normalized, self.images)

    def leave_one_out_squares(self, normalized: Float[Tensor, "K D"]) -> Float[Tensor, " K"]:
        """Those of images that are among the vectors, each taken out (Sherman and Morrison)."""
        remaining = self.images - 1
        lengths = self._lengths(normalized, remaining)
        return lengths / (1 - lengths / remaining)

    def _lengths(self, normalized: Float[Tensor, "Q D"], images: int) -> Float[Tensor, " Q"]:
        wide = normalized.double()
        inside = (wide @ self.basis).square()
        beyond = (wide.square().sum(dim=1) - inside.sum(dim=1)).clamp_min(0)
        added = STRENGTH / max(images - 1, 1)
        return inside @ (1 / (self.eigenvalues / images + added)) + beyond / added


def _least_distance(cosines: Float[Tensor, "Q M"]) -> Float[Tensor, " Q"]:
    """Between unit vectors of these cosines."""
    return (2 - 2 * cosines.max(dim=1).values).clamp_min(0).sqrt()
