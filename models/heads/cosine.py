"""Nearest class centroid by cosine."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from models.heads import heads


@heads.register
@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Nearest class mean, by cosine (Snell et al., 2017; centring: Wang et al., 2019).

    https://arxiv.org/abs/1703.05175 https://arxiv.org/abs/1911.04623
    """

    temperature: float = 0.03  # probabilities are the softmax of cosine / temperature
    centered: bool = False  # subtract the mean embedding of all images of the project first

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and 1e-3 <= self.temperature <= 100):
            raise ValueError(f"temperature must be from 0.001 to 100, got {self.temperature}")

    @property
    def uses_mean(self) -> bool:
        return self.centered

    def fit(
        self,
        embeddings: Float[Tensor, "M D"],
        targets: Int[Tensor, " M"],
        classes: int,
        mean: Float[Tensor, " D"] | None = None,
    ) -> "FittedCosine":
        """Average the shots of each class.

        Stored embeddings are float16, so they are multiples of 2^-24 and their float64 sum is
        exact: a centroid does not depend on the order in which shots came and went.
        """
        shots = torch.bincount(targets, minlength=classes)  # (C,)
        if len(shots) > classes or not bool(shots.all()):
            raise ValueError(f"each of the {classes} classes needs a shot, got {shots.tolist()}")
        if self.centered and mean is None:
            raise ValueError("a centred head needs the mean embedding of all images")
        origin = mean if self.centered else None
        sums = torch.zeros(classes, embeddings.shape[1], dtype=torch.float64)
        sums.index_add_(0, targets, _centre(embeddings, origin).double())
        means = (sums / shots[:, None]).float()
        return FittedCosine(F.normalize(means, dim=1), self.temperature, origin)


@dataclass(frozen=True)
class FittedCosine:
    """Class centroids, of unit length."""

    centroids: Float[Tensor, "C D"]
    temperature: float
    mean: Float[Tensor, " D"] | None

    def similarities(self, queries: Float[Tensor, "Q D"]) -> Float[Tensor, "Q C"]:
        """Cosine of each query to each centroid."""
        centred = F.normalize(_centre(queries, self.mean).float(), dim=1)
        return (centred @ self.centroids.T).clamp(-1, 1)

    def probabilities(self, queries: Float[Tensor, "Q D"]) -> Float[Tensor, "Q C"]:
        """Softmax of cosine over temperature (Snell et al., 2017, equation 2)."""
        return (self.similarities(queries) / self.temperature).softmax(dim=1)


def _centre(
    embeddings: Float[Tensor, "M D"], mean: Float[Tensor, " D"] | None
) -> Float[Tensor, "M D"]:
    return embeddings if mean is None else F.normalize(embeddings.float() - mean, dim=1)
