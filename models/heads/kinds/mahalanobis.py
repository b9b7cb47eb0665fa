"""Nearest class centroid under a covariance that the classes share."""

import math
from dataclasses import dataclass, replace

from jaxtyping import Float, Int
from torch import Tensor

from models.heads import (
    Calibrated,
    CenteredHead,
    FittedHead,
    Support,
    calibrate,
    center_and_normalize,
    products,
)
from models.heads.kinds import heads
from models.heads.scatter import Scatter, ScatterRows
from models.registry import require_within

STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)  # of shrinkage, to choose from


STRENGTH = 0.3  # where there is nothing to choose on


# Measured with EfficientNet-Lite0 on photos of clothes, on hands and on digits, 1 to 100 shots:
TEMPERATURE = 2.1  # times the square root of the shrinkage; its logarithm varies by 0.3


TEMPERATURE_ALONE = 0.135  # over the variance in each direction, where each class has one shot


@heads.register
@dataclass(frozen=True, kw_only=True)
class Mahalanobis(CenteredHead):
    """Nearest class mean under the covariance within classes, shrunk towards a sphere.

    Linear discriminant analysis with the covariance (W + k tr(W) / (n - 1) I) / (n - C), where W is
    the scatter within classes; with k = 1 that of Kubokawa and Srivastava (2008), as Wang et al.
    (2024) use it for few shots. https://doi.org/10.1016/j.jmva.2008.01.016
    https://arxiv.org/abs/2402.04087

    The mean of n shots lies off the true one, which adds spread / n to each squared distance; it is
    taken off again (Moran and Murphy, 1979), so that a class with one shot and one with a hundred
    compete fairly. https://doi.org/10.2307/2346745
    """

    shrinkage: float | None = None  # k: the larger, the closer to plain distance; None: chosen
    spread: float | None = None  # mean squared distance of images to the true mean; None: measured
    temperature: float | None = None  # divides -distance^2 / 2; None: fitted

    def __post_init__(self) -> None:
        require_within(self, "shrinkage", 1e-4, 1e4)
        require_within(self, "spread", 0, 1e9)
        require_within(self, "temperature", 1e-3, 1e6)

    def fit_support(self, support: Support) -> "FittedMahalanobis":
        """Learn means and covariance; choose what is None by the log loss of leave-one-out."""
        normalized = support.normalized
        scatter = Scatter.of(normalized, support.targets, support.means, support.shots)
        rows = scatter.rows(normalized[support.judged], support.targets[support.judged])
        choices = STRENGTHS if support.repeated else (STRENGTH,)
        options, loss = min(
            (
                self._calibrated(scatter, rows, strength)
                for strength in (choices if self.shrinkage is None else (self.shrinkage,))
            ),
            key=lambda calibrated: calibrated.loss,
        )
        weights = scatter.weights(options.shrinkage)
        return FittedMahalanobis(
            options=options,
            temperature=options.temperature,
            loss=loss,
            mean=support.mean,
            centroids=support.centroids,
            shrinkage=options.shrinkage,
            within_class_variance=options.spread,
            scatter=scatter,
            weights=weights.to(normalized.dtype),
            lengths=(weights * scatter.means).sum(dim=1).to(normalized.dtype),
        )

    def _calibrated(self, scatter: Scatter, rows: ScatterRows, strength: float) -> Calibrated:
        """The other options for this strength, and the log loss with them."""
        distances = scatter.downdated(rows, strength)
        variance = self.spread
        if variance is None:
            variance = scatter.within_class_variance(distances, rows)
        scores = scatter.scores(distances, rows, variance)
        options = replace(self, shrinkage=strength, spread=variance)
        return calibrate(options, scores, rows.targets, _expected_temperature(scatter, strength))


@dataclass(frozen=True, kw_only=True)
class FittedMahalanobis(FittedHead):
    """Class means and the covariance around them."""

    shrinkage: float
    within_class_variance: float  # mean squared distance of images to the true mean
    scatter: Scatter
    weights: Float[Tensor, "C D"]  # the means times the inverse covariance
    lengths: Float[Tensor, " C"]  # squared, of the means under that

    def scores(self, queries: Float[Tensor, "Q D"]) -> Float[Tensor, "Q C"]:
        """Minus half the squared distances, less what is the same for all classes."""
        dots = products(queries, self.weights, self.mean)
        return dots + self.offset.to(dots.dtype)

    @property
    def offset(self) -> Float[Tensor, " C"]:
        """What is added to the products of embeddings and weights."""
        return (self.within_class_variance / self.scatter.shots.double() - self.lengths) / 2

    def leave_one_out_scores(
        self, embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
    ) -> Float[Tensor, "M C"]:
        """By taking the image's part out of the inverse covariance (Sherman and Morrison, 1950)."""
        rows = self.scatter.rows(center_and_normalize(embeddings, self.mean), targets)
        distances = self.scatter.downdated(rows, self.shrinkage)
        return self.scatter.scores(distances, rows, self.within_class_variance)


def _expected_temperature(scatter: Scatter, strength: float) -> float:
    """What to expect before it is measured."""
    if bool((scatter.shots > 1).any()):
        return TEMPERATURE / math.sqrt(strength)
    return TEMPERATURE_ALONE / float(scatter.covariance(strength)[1])
