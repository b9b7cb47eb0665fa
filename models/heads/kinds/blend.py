"""Mahalanobis distance and ridge regression together."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.heads import CenteredHead, FittedHead, Support, best_by_leave_one_out, products
from models.heads.kinds import heads
from models.heads.kinds.mahalanobis import FittedMahalanobis, Mahalanobis
from models.heads.kinds.ridge import FittedRidge, Ridge
from models.registry import require_within

# What the log likelihood of a shot counts: shots of a class are alike, so a few tell less of which
# head is better than as many independent ones would. Chosen on 2 to 50 shots of photos of clothes,
# of hands and of digits; from 1/16 to 1/4 makes little difference.
TEMPER = 1 / 8


@heads.register
@dataclass(frozen=True, kw_only=True)
class Blend(CenteredHead):
    """The log odds of `mahalanobis` and `ridge`, added with weights.

    A logarithmic opinion pool (Genest and Zidek, 1986, https://doi.org/10.1214/ss/1177013825).
    Their weights are those of their leave-one-out likelihoods, tempered, as in pseudo-Bayesian
    averages of models (Yao et al., 2018, https://doi.org/10.1214/17-BA1091): with few shots both
    count, which is surer than to choose on so little, and with many the better one is all but
    alone. Both are linear in the embedding, so this is one linear head.

    Where each class has one shot, both count alike.
    """

    share: float | None = None  # weight of `mahalanobis`, 0..1; `ridge` has the rest; None: chosen
    shrinkage: float | None = None  # of `mahalanobis`, as all that is None chosen by it
    spread: float | None = None
    distance_temperature: float | None = None
    penalty: float | None = None  # of `ridge`
    estimate_temperature: float | None = None
    temperature: float | None = None  # divides the sum of the log odds; None: fitted

    def __post_init__(self) -> None:
        require_within(self, "share", 0, 1)
        require_within(self, "temperature", 1e-3, 1e3)
        self._parts()

    def fit_support(self, support: Support) -> "FittedBlend":
        """Fit both, weigh them, and then fit a temperature to their sum."""
        first, second = self._parts()
        distances, estimates = first.fit_support(support), second.fit_support(support)
        share = self._share(distances.loss, estimates.loss, support.evidence)
        weights = share / distances.temperature, (1 - share) / estimates.temperature
        losses = {"mahalanobis": distances.loss, "ridge": estimates.loss}
        options = replace(
            self,
            share=share,
            shrinkage=distances.shrinkage,
            spread=distances.within_class_variance,
            distance_temperature=distances.temperature,
            penalty=estimates.penalty,
            estimate_temperature=estimates.temperature,
        )
        fitted = FittedBlend(
            options=options,
            temperature=1.0,
            mean=support.mean,
            centroids=support.centroids,
            losses=losses if self.share is None else {},
            parts=(distances, estimates),
            weights=weights,
            directions=weights[0] * distances.weights + weights[1] * estimates.weights[:, :-1],
            offset=weights[0] * distances.offset + weights[1] * estimates.offset,
        )
        return best_by_leave_one_out([fitted], support, expected=1.0)

    def _parts(self) -> tuple[Mahalanobis, Ridge]:
        return (
            Mahalanobis(
                centered=self.centered,
                shrinkage=self.shrinkage,
                spread=self.spread,
                temperature=self.distance_temperature,
            ),
            Ridge(
                centered=self.centered,
                penalty=self.penalty,
                temperature=self.estimate_temperature,
            ),
        )

    def _share(self, distances: float, estimates: float, evidence: float) -> float:
        """Of `mahalanobis`, by the log loss of each."""
        if self.share is not None:
            return self.share
        if not evidence:
            return 0.5
        return 1 / (1 + math.exp(min(TEMPER * evidence * (distances - estimates), 700.0)))


@dataclass(frozen=True, kw_only=True)
class FittedBlend(FittedHead):
    """Both heads, and the linear one that they make."""

    parts: tuple[FittedMahalanobis, FittedRidge]
    weights: tuple[float, float]  # of their scores
    directions: Float[Tensor, "C D"]
    offset: Float[Tensor, " C"]

    def scores(self, queries: Float[Tensor, "Q D"]) -> Float[Tensor, "Q C"]:
        """Weighted sums of both scores."""
        sums = products(queries, self.directions, self.mean)
        return sums + self.offset.to(sums.dtype)

    def leave_one_out_scores(
        self, embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
    ) -> Float[Tensor, "M C"]:
        """Weighted sums of both."""
        counting = [pair for pair in zip(self.weights, self.parts, strict=True) if pair[0]]
        return torch.stack(
            [weight * part.leave_one_out_scores(embeddings, targets) for weight, part in counting]
        ).sum(dim=0)
