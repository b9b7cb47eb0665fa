"""Scatter of images within classes, and distances under its inverse, also without an image."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.embeddings.pca import spectrum as spectrum  # also for `rejection`
from models.heads.sufficient_statistics import Statistics

# Measured with EfficientNet-Lite0 on photos of clothes, on hands and on digits, 1 to 100 shots:
VARIANCE = 0.74  # within classes, summed over all dimensions; of all centred unit vectors it is 1


LEAST_VARIANCE = 1e-6  # of images that are all the same


class ScatterRows(NamedTuple):
    """Support images beside the eigenvectors of W."""

    targets: Int[Tensor, " M"]
    inside: Float[Tensor, "M E"]
    dots: Tensor  # (M, C), with the means, of what the eigenvectors leave of both; 0 if nothing
    lengths: Tensor  # (M,), squared, of what they leave; 0 if nothing


class LeaveOneOutDistances(NamedTuple):
    """What heads without each image say of it."""

    scores: Float[Tensor, "M C"]  # by means that keep all their shots
    to_own_class: Float[
        Tensor, " M"
    ]  # squared distance to the mean of the other shots of its class
    length: Float[Tensor, " M"]  # squared, of the image


class Scatter(NamedTuple):
    """Class means, and the eigenvectors of the scatter W within classes; all float64."""

    means: Float[Tensor, "C D"]
    shots: Int[Tensor, " C"]
    eigenvalues: Float[Tensor, " E"]
    basis: Float[Tensor, "D E"]  # of the space in which W is not 0, or of all
    inside: Float[Tensor, "C E"]  # the means in that basis
    outside: Float[Tensor, "C D"] | None  # what it leaves of them; None where it is all

    @classmethod
    def of(
        cls,
        normalized: Float[Tensor, "M D"],
        targets: Int[Tensor, " M"],
        means: Float[Tensor, "C D"],
        shots: Int[Tensor, " C"],
    ) -> "Scatter":
        """From the images' inner products where they are fewer than dimensions, else from W itself.

        Args:
            means: of the classes, in float64.
            shots: how many images each class has.
        """
        if len(targets) > normalized.shape[1]:
            within = Statistics.of(normalized, targets, len(shots)).within
            eigenvalues, basis = torch.linalg.eigh(within)
            return cls(means, shots, eigenvalues.clamp_min(0), basis, means @ basis, None)
        eigenvalues, basis = spectrum(normalized.double() - means[targets])
        inside = means @ basis
        return cls(means, shots, eigenvalues, basis, inside, means - inside @ basis.T)

    def covariance(self, strength: float) -> tuple[Tensor, Tensor]:
        """The weight of W, and the variance that is added in every direction."""
        images = int(self.shots.sum())
        freedom = torch.tensor(images - len(self.shots))
        return _covariance(self.eigenvalues.sum(), freedom, images, strength)

    def weights(self, strength: float) -> Float[Tensor, "C D"]:
        """The means times the inverse covariance."""
        weight, added = self.covariance(strength)
        weights = (self.inside / (weight * self.eigenvalues + added)) @ self.basis.T
        return weights if self.outside is None else weights + self.outside / added

    def rows(self, normalized: Float[Tensor, "M D"], targets: Int[Tensor, " M"]) -> ScatterRows:
        """Support images in the basis; this does not depend on the strength."""
        wide = normalized.double()
        inside = wide @ self.basis
        if self.outside is None:
            return ScatterRows(targets, inside, inside.new_zeros(()), inside.new_zeros(()))
        beyond = wide - inside @ self.basis.T
        return ScatterRows(targets, inside, beyond @ self.outside.T, beyond.square().sum(dim=1))

    def squares(self, normalized: Float[Tensor, "Q D"], strength: float) -> Float[Tensor, "Q C"]:
        """Squared distances of any images to the means."""
        weight, added = self.covariance(strength)
        wide = normalized.double()
        inside = wide @ self.basis
        beyond = (wide.square().sum(dim=1) - inside.square().sum(dim=1)).clamp_min(0)
        lengths = inside.square() @ (1 / (weight * self.eigenvalues + added)) + beyond / added
        weights = self.weights(strength)
        offset = lengths[:, None] + (weights * self.means).sum(dim=1)
        return offset - 2 * wide @ weights.T

    def downdated(self, rows: ScatterRows, strength: float) -> LeaveOneOutDistances:
        """Scores but for the variance of means, and squared distances, by fits without each image.

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
        return LeaveOneOutDistances(
            dots - squares / 2, a.square() * (g + gain * g.square()), length
        )

    def scores(
        self, distances: LeaveOneOutDistances, rows: ScatterRows, within_class_variance: float
    ) -> Float[Tensor, "M C"]:
        """Scores of which those of the own class are by one shot less."""
        shots = self.shots.double()
        remaining = shots[rows.targets] - 1
        own_scores = (
            distances.length - distances.to_own_class + within_class_variance / remaining
        ) / 2
        own_scores = own_scores.masked_fill(remaining == 0, -torch.inf)
        return (distances.scores + within_class_variance / shots / 2).scatter(
            1, rows.targets[:, None], own_scores[:, None]
        )

    def within_class_variance(self, distances: LeaveOneOutDistances, rows: ScatterRows) -> float:
        """The mean squared distance of images to the true mean of their class.

        That to the mean of the other shots is too large by a share of 1 / their number.
        """
        shots = self.shots[rows.targets].double()
        able = shots > 1
        unbiased = distances.to_own_class * (shots - 1) / shots
        return float(unbiased[able].mean()) if bool(able.any()) else 0.0


def _covariance(
    trace: Float[Tensor, "*M"], freedom: Int[Tensor, "*M"], images: int, strength: float
) -> tuple[Float[Tensor, "*M"], Float[Tensor, "*M"]]:
    """The weight of W, and the variance that is added in every direction."""
    weight = torch.where(freedom > 0, 1 / freedom.clamp_min(1).double(), 0)
    variance = torch.where(freedom > 0, (trace * weight).clamp_min(LEAST_VARIANCE), VARIANCE)
    return weight, strength * variance / max(images - 1, 1)
