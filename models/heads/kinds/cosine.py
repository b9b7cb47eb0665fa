"""Nearest class centroid by cosine."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from models.heads import (
    CenteredHead,
    FittedHead,
    Support,
    best_by_leave_one_out,
    center_and_normalize,
)
from models.heads.kinds import heads
from models.registry import require_within

# Measured with EfficientNet-Lite0 on photos of clothes, on hands and on digits, 1 and 2 shots:
EXPECTED_TEMPERATURE = 0.06


EXPECTED_CENTERED = 0.135  # the logarithm of both varies by 0.3


@heads.register
@dataclass(frozen=True, kw_only=True)
class Cosine(CenteredHead):
    """Nearest class mean, by cosine (Snell et al., 2017; centring: Wang et al., 2019).

    https://arxiv.org/abs/1703.05175 https://arxiv.org/abs/1911.04623
    """

    temperature: float | None = None  # divides cosines before the softmax; None: fitted
    centered: bool = False  # subtract the mean embedding of all images of the project first

    def __post_init__(self) -> None:
        require_within(self, "temperature", 1e-3, 100)

    def fit_support(self, support: Support) -> "FittedCosine":
        """Average the shots of each class."""
        fitted = FittedCosine(
            options=self,
            temperature=1.0,
            mean=support.mean,
            centroids=support.centroids,
            sums=support.means * support.shots[:, None],
            shots=support.shots,
        )
        expected = EXPECTED_CENTERED if self.centered else EXPECTED_TEMPERATURE
        return best_by_leave_one_out([fitted], support, expected)


@dataclass(frozen=True, kw_only=True)
class FittedCosine(FittedHead):
    """Class centroids, of unit length."""

    sums: Float[Tensor, "C D"]
    shots: Int[Tensor, " C"]

    def scores(self, queries: Float[Tensor, "Q D"]) -> Float[Tensor, "Q C"]:
        """Cosines; their softmax is equation 2 of Snell et al. (2017)."""
        return self.similarities(queries)

    def leave_one_out_scores(
        self, embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
    ) -> Float[Tensor, "M C"]:
        """Only the centroid of the own class changes: it is the sum of the other shots."""
        normalized = center_and_normalize(embeddings, self.mean).double()
        units = F.normalize(normalized, dim=1)
        cosines = units @ F.normalize(self.sums, dim=1).T
        downdated = F.normalize(self.sums[targets] - normalized, dim=1)
        own_cosines = (units * downdated).sum(dim=1)
        own_cosines = own_cosines.masked_fill(self.shots[targets] == 1, -torch.inf)
        return cosines.scatter(1, targets[:, None], own_cosines[:, None])
