"""Least squares on one-hot classes, with a penalty."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import functional as F

from models.embeddings.pca import spectrum
from models.heads import (
    CenteredHead,
    FittedHead,
    Support,
    best_by_leave_one_out,
    center_and_normalize,
    class_means,
    products,
)
from models.heads.kinds import heads
from models.registry import require_within

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0)  # to choose from


PENALTY = 1.0  # where there is nothing to choose on


# A feature that is the same for all, for an intercept. Small, so that this is penalised 25 times as
# much as other weights: embeddings are centred already, and it holds how many shots a class has.
CONSTANT = 0.2


# Measured with EfficientNet-Lite0 on photos of clothes, on hands and on digits:
EXPECTED_TEMPERATURE = 0.12


# Where each class has one shot, estimates are about 1 / (1 + penalty) of the cosine to it.
TEMPERATURE_ALONE = 0.135  # of the cosine


@heads.register
@dataclass(frozen=True, kw_only=True)
class Ridge(CenteredHead):
    """Ridge regression onto one-hot classes, of embeddings or of random features of them.

    Its estimates favour classes with many shots, as if these were likelier among queries; with the
    temperature known, the logarithm of the shots is taken off the log odds again, so that a class
    with one shot and one with a hundred compete fairly (post-hoc logit adjustment, Menon et al.,
    2021). https://arxiv.org/abs/2007.07314

    Random features are relu(R x) with R normal, as in RanPAC (McDonnell et al., 2023).
    https://arxiv.org/abs/2307.02251
    """

    penalty: float | None = None  # of squared weights; None: chosen
    features: int = 0  # random features; 0: the embedding itself
    seed: int = 0  # of the random features
    temperature: float | None = None  # divides scores, about 0 to 1, before the softmax

    def __post_init__(self) -> None:
        require_within(self, "penalty", 1e-6, 1e6)
        require_within(self, "features", 0, 20_000)
        require_within(self, "seed", 0, 2**31)
        require_within(self, "temperature", 1e-4, 1e4)

    def fit_support(self, support: Support) -> "FittedRidge":
        """Solve the normal equations in the span of the images; choose the penalty if it is None.

        The last feature is constant, so that there is an intercept.
        """
        directions = self._directions(support.normalized.shape[1])
        features = _features(support.normalized.double(), directions)
        eigenvalues, basis = spectrum(features)
        shots = support.shots
        sums = class_means(features, support.targets, shots) * shots[:, None]
        inside = sums @ basis
        choices = self._choices(support)
        fitted = []
        for penalty in choices:
            inverse = 1 / (eigenvalues + penalty)
            head = FittedRidge(
                options=replace(self, penalty=penalty),
                temperature=1.0,
                mean=support.mean,
                centroids=support.centroids,
                penalty=penalty,
                shots=shots,
                directions=directions,
                basis=basis,
                inverse=inverse,
                weights=(inside * inverse) @ basis.T,
            )
            fitted.append(head)

        judged, targets = features[support.judged], support.targets[support.judged]

        def left_out() -> Iterator[Tensor]:
            """Seen along the basis, each choice costs little."""
            projected = judged @ basis
            return (
                head.downdated(projected, projected @ (inside * head.inverse).T, targets)
                for head in fitted
            )

        expected = EXPECTED_TEMPERATURE
        if not support.repeated:
            expected = TEMPERATURE_ALONE / (1 + choices[0])
        prior = _log_without(shots, targets)
        return best_by_leave_one_out(fitted, support, expected, left_out, prior)

    def _choices(self, support: Support) -> tuple[float, ...]:
        if self.penalty is not None:
            return (self.penalty,)
        return PENALTIES if support.repeated else (PENALTY,)

    def _directions(self, dim: int) -> Float[Tensor, "D P"] | None:
        if not self.features:
            return None
        generator = Generator().manual_seed(self.seed)
        return torch.randn(dim, self.features, generator=generator, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class FittedRidge(FittedHead):
    """Weights of each class, and what tells how much each image pulled at them."""

    penalty: float
    shots: Int[Tensor, " C"]
    directions: Float[Tensor, "D P"] | None
    basis: Float[Tensor, "Y E"]
    inverse: Float[Tensor, " E"]
    weights: Float[Tensor, "C Y"]

    def scores(self, queries: Float[Tensor, "Q D"]) -> Float[Tensor, "Q C"]:
        """Least-squares estimates of one-hot classes, less what their shots add."""
        if self.directions is None:
            estimates = products(queries, self.weights[:, :-1], self.mean)
            return estimates + self.offset.to(estimates.dtype)
        features = _features(center_and_normalize(queries, self.mean), self.directions)
        estimates = features[:, :-1] @ self.weights[:, :-1].to(features.dtype).T
        return estimates + self.offset.to(estimates.dtype)

    @property
    def offset(self) -> Float[Tensor, " C"]:
        """What is added to the products of features and weights, but for the last of these."""
        return CONSTANT * self.weights[:, -1] - self.temperature * _log(self.shots)

    def leave_one_out_scores(
        self, embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
    ) -> Float[Tensor, "M C"]:
        """(estimate - h y) / (1 - h) with h the image's leverage (Allen, 1974).

        https://doi.org/10.2307/1267500
        """
        features = _features(center_and_normalize(embeddings, self.mean).double(), self.directions)
        estimates = self.downdated(features @ self.basis, features @ self.weights.T, targets)
        return estimates - self.temperature * _log_without(self.shots, targets)

    def downdated(
        self,
        projected: Float[Tensor, "M E"],
        estimates: Float[Tensor, "M C"],
        targets: Int[Tensor, " M"],
    ) -> Float[Tensor, "M C"]:
        """Estimates for support images, by their features along the basis and with themselves."""
        leverage = (projected.square() @ self.inverse)[:, None]
        truth = F.one_hot(targets, len(self.shots)).double()
        downdated = (estimates - leverage * truth) / (1 - leverage)
        alone = (self.shots[targets] == 1)[:, None] & truth.bool()
        return downdated.masked_fill(alone, -torch.inf)


def _log(shots: Int[Tensor, " C"]) -> Float[Tensor, " C"]:
    """Logarithms of the shots, less the greatest: all 0 where classes have as many."""
    return shots.double().log() - shots.max().double().log()


def _log_without(shots: Int[Tensor, " C"], targets: Int[Tensor, " M"]) -> Float[Tensor, "M C"]:
    """The same without each image; one that is the only one of its class stays."""
    fewer = (shots - 1).clamp_min(1).double().log() - shots.max().double().log()
    return _log(shots).repeat(len(targets), 1).scatter(1, targets[:, None], fewer[targets, None])


def _features(
    normalized: Float[Tensor, "M D"], directions: Float[Tensor, "D P"] | None
) -> Float[Tensor, "M Y"]:
    """Of length about 1, and then what is the same for all."""
    if directions is not None:
        width = (2 / directions.shape[1]) ** 0.5
        normalized = (normalized @ directions.to(normalized.dtype)).relu() * width
    return F.pad(normalized, (0, 1), value=CONSTANT)
