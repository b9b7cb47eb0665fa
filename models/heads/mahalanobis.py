"""Nearest class centroid under a covariance that the classes share."""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.calibration import fit_temperature, log_loss
from models.heads import FittedHead, Placing, Support, check, class_means, heads, place, sample
from models.statistics import Statistics

STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)  # of shrinkage, to choose from
STRENGTH = 0.3  # where there is nothing to choose on
# Measured with EfficientNet-Lite0 on photos of clothes, on hands and on digits, 1 to 100 shots:
VARIANCE = 0.74  # within classes, summed over all dimensions; of all centred unit vectors it is 1
TEMPERATURE = 2.1  # times the square root of the shrinkage; its logarithm varies by 0.3
TEMPERATURE_ALONE = 0.135  # over the variance in each direction, where each class has one shot
LEAST_VARIANCE = 1e-6  # of images that are all the same


@heads.register
@dataclass(frozen=True, kw_only=True)
class Mahalanobis(Placing):
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
        check("shrinkage", self.shrinkage, 1e-4, 1e4)
        check("spread", self.spread, 0, 1e9)
        check("temperature", self.temperature, 1e-3, 1e6)

    def learn(self, support: Support) -> "FittedMahalanobis":
        """Learn means and covariance; choose what is None by the log loss of leave-one-out."""
        placed = support.placed
        scatter = _scatter(placed, support.targets, support.shots)
        some = sample(support.targets)
        rows = scatter.rows(placed[some], support.targets[some])
        choices = STRENGTHS if support.repeated else (STRENGTH,)
        chosen = min(
            (
                self._choice(scatter, rows, strength)
                for strength in (choices if self.shrinkage is None else (self.shrinkage,))
            ),
            key=lambda choice: choice.loss,
        ).options
        weights = scatter.weights(chosen.shrinkage)
        return FittedMahalanobis(
            options=chosen,
            temperature=chosen.temperature,
            mean=support.mean,
            centroids=support.centroids,
            shrinkage=chosen.shrinkage,
            spread=chosen.spread,
            scatter=scatter,
            weights=weights.to(placed.dtype),
            lengths=(weights * scatter.means).sum(dim=1).to(placed.dtype),
        )

    def _choice(self, scatter: "_Scatter", rows: "_Rows", strength: float) -> "_Choice":
        """The other options for this strength, and the log loss with them."""
        left = scatter.without(rows, strength)
        spread = scatter.spread(left, rows) if self.spread is None else self.spread
        scores = scatter.scores(left, rows, spread)
        temperature = self.temperature
        if temperature is None:
            expected = scatter.expected_temperature(strength)
            temperature = fit_temperature(scores, rows.targets, expected)
        options = replace(self, shrinkage=strength, spread=spread, temperature=temperature)
        return _Choice(log_loss(scores / temperature, rows.targets), options)


@dataclass(frozen=True, kw_only=True)
class FittedMahalanobis(FittedHead):
    """Class means and the covariance around them."""

    shrinkage: float
    spread: float
    scatter: "_Scatter"
    weights: Float[Tensor, "C D"]  # the means times the inverse covariance
    lengths: Float[Tensor, " C"]  # squared, of the means under that

    def scores(self, queries: Float[Tensor, "Q D"]) -> Float[Tensor, "Q C"]:
        """Minus half the squared distances, less what is the same for all classes."""
        placed = place(queries, self.mean)
        offset = (self.spread / self.scatter.shots.double() - self.lengths) / 2
        return placed @ self.weights.to(placed.dtype).T + offset.to(placed.dtype)

    def scores_without(
        self, embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
    ) -> Float[Tensor, "M C"]:
        """By taking the image's part out of the inverse covariance (Sherman and Morrison, 1950)."""
        rows = self.scatter.rows(place(embeddings, self.mean), targets)
        return self.scatter.scores(self.scatter.without(rows, self.shrinkage), rows, self.spread)


class _Choice(NamedTuple):
    """Options, all of them told, and how well they do."""

    loss: float
    options: Any


class _Rows(NamedTuple):
    """Support images beside the eigenvectors of W."""

    targets: Int[Tensor, " M"]
    inside: Float[Tensor, "M E"]
    dots: Tensor  # (M, C), with the means, of what the eigenvectors leave of both; 0 if nothing
    lengths: Tensor  # (M,), squared, of what they leave; 0 if nothing


class _Left(NamedTuple):
    """What heads without each image say of it."""

    scores: Float[Tensor, "M C"]  # by means that keep all their shots
    own: Float[Tensor, " M"]  # squared distance to the mean of the other shots of its class
    length: Float[Tensor, " M"]  # squared, of the image


class _Scatter(NamedTuple):
    """Class means, and the eigenvectors of the scatter W within classes; all float64."""

    means: Float[Tensor, "C D"]
    shots: Int[Tensor, " C"]
    eigenvalues: Float[Tensor, " E"]
    basis: Float[Tensor, "D E"]  # of the space in which W is not 0, or of all
    inside: Float[Tensor, "C E"]  # the means in that basis
    outside: Float[Tensor, "C D"] | None  # what it leaves of them; None where it is all

    def covariance(self, strength: float) -> tuple[Tensor, Tensor]:
        """The weight of W, and the variance that is added in every direction."""
        images = int(self.shots.sum())
        freedom = torch.tensor(images - len(self.shots))
        return _covariance(self.eigenvalues.sum(), freedom, images, strength)

    def expected_temperature(self, strength: float) -> float:
        """What to expect before it is measured."""
        if bool((self.shots > 1).any()):
            return TEMPERATURE / math.sqrt(strength)
        return TEMPERATURE_ALONE / float(self.covariance(strength)[1])

    def weights(self, strength: float) -> Float[Tensor, "C D"]:
        """The means times the inverse covariance."""
        weight, added = self.covariance(strength)
        found = (self.inside / (weight * self.eigenvalues + added)) @ self.basis.T
        return found if self.outside is None else found + self.outside / added

    def rows(self, placed: Float[Tensor, "M D"], targets: Int[Tensor, " M"]) -> _Rows:
        """Support images in the basis; this does not depend on the strength."""
        wide = placed.double()
        inside = wide @ self.basis
        if self.outside is None:
            return _Rows(targets, inside, inside.new_zeros(()), inside.new_zeros(()))
        beyond = wide - inside @ self.basis.T
        return _Rows(targets, inside, beyond @ self.outside.T, beyond.square().sum(dim=1))

    def without(self, rows: _Rows, strength: float) -> _Left:
        """Scores but for the spread, and squared distances, by fits without each image.

        With r the image less the mean of its n shots, W loses a r r' where a = n / (n - 1), and the
        image lies a r from the mean of the others.
        """
        shots = self.shots[rows.targets].double()
        alone = shots == 1
        a = torch.where(alone, 0, shots / (shots - 1).clamp_min(1))
        r = rows.inside - self.inside[rows.targets]  # (M, E)
        images = int(self.shots.sum()) - 1
        freedom = images - len(self.shots) + alone.long()  # a lone image takes its class along
        trace = self.eigenvalues.sum() - a * r.square().sum(dim=1)
        weight, added = _covariance(trace, freedom, images, strength)  # (M,)
        inverse = 1 / (weight[:, None] * self.eigenvalues + added[:, None])  # (M, E)
        means = self.inside.T  # (E, C)
        dots = (rows.inside * inverse) @ means + rows.dots / added[:, None]
        squares = inverse @ means.square()
        if self.outside is not None:
            squares += self.outside.square().sum(dim=1) / added[:, None]
        length = (rows.inside.square() * inverse).sum(dim=1) + rows.lengths / added
        turned = r * inverse
        g = (r * turned).sum(dim=1)
        gain = a * weight / (1 - a * weight * g)
        with_image, with_means = (turned * rows.inside).sum(dim=1), turned @ means
        dots += (gain * with_image)[:, None] * with_means
        squares += gain[:, None] * with_means.square()
        length += gain * with_image.square()
        return _Left(dots - squares / 2, a.square() * (g + gain * g.square()), length)

    def scores(self, left: _Left, rows: _Rows, spread: float) -> Float[Tensor, "M C"]:
        """Scores of which those of the own class are by one shot less."""
        shots = self.shots.double()
        remaining = shots[rows.targets] - 1
        own = (left.length - left.own + spread / remaining) / 2
        own = own.masked_fill(remaining == 0, -torch.inf)
        return (left.scores + spread / shots / 2).scatter(1, rows.targets[:, None], own[:, None])

    def spread(self, left: _Left, rows: _Rows) -> float:
        """The mean squared distance of images to the true mean of their class.

        That to the mean of the other shots is too large by a share of 1 / their number.
        """
        shots = self.shots[rows.targets].double()
        able = shots > 1
        found = left.own * (shots - 1) / shots
        return float(found[able].mean()) if bool(able.any()) else 0.0


def _scatter(
    placed: Float[Tensor, "M D"], targets: Int[Tensor, " M"], shots: Int[Tensor, " C"]
) -> _Scatter:
    """From the images' inner products where they are fewer than dimensions, else from W itself."""
    means = class_means(placed, targets, shots)
    if len(targets) > placed.shape[1]:
        within = Statistics.of(placed, targets, len(shots)).within
        eigenvalues, basis = torch.linalg.eigh(within)
        return _Scatter(means, shots, eigenvalues.clamp_min(0), basis, means @ basis, None)
    apart = placed.double() - means[targets]
    eigenvalues, vectors = torch.linalg.eigh(apart @ apart.T)
    kept = eigenvalues > 1e-12 * len(targets)
    eigenvalues = eigenvalues[kept]
    basis = apart.T @ (vectors[:, kept] / eigenvalues.sqrt())
    inside = means @ basis
    return _Scatter(means, shots, eigenvalues, basis, inside, means - inside @ basis.T)


def _covariance(
    trace: Float[Tensor, "*M"], freedom: Int[Tensor, "*M"], images: int, strength: float
) -> tuple[Float[Tensor, "*M"], Float[Tensor, "*M"]]:
    """The weight of W, and the variance that is added in every direction."""
    weight = torch.where(freedom > 0, 1 / freedom.clamp_min(1).double(), 0)
    variance = torch.where(freedom > 0, (trace * weight).clamp_min(LEAST_VARIANCE), VARIANCE)
    return weight, strength * variance / max(images - 1, 1)
