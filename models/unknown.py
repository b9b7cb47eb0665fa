"""Images of no class: how unlike all labeled images one is, and from where on it is unknown."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from models.conformal import quantile
from models.heads import ROWS_PER_BLOCK, class_means, place, sample
from models.scatter import Scatter, spectrum

STRENGTH = 1.0  # of shrinkage, as Kubokawa and Srivastava (2008) have it
LEAST_DEVIATION = 0.01  # of images that are all the same
JUDGED_CLASSES, JUDGED_IMAGES = 20, 300  # at most, to estimate what is caught


class TooFewShots(ValueError):
    """Too few images can be left out for the rate of false rejections that is wanted."""


class Rejection(NamedTuple):
    """From where on images are unknown, and how many of unseen classes these are."""

    threshold: float
    caught: float | None  # estimated share; None with fewer than three classes, or too few shots


class Measure(Protocol):
    """How unlike all labeled images an image is; it sees embeddings as heads place them."""

    def scores(self, placed: Float[Tensor, "Q D"]) -> Float[Tensor, " Q"]:
        """The higher, the less like any class."""
        ...

    def scores_without(
        self, placed: Float[Tensor, "K D"], targets: Int[Tensor, " K"]
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
        cls, placed: Float[Tensor, "M D"], targets: Int[Tensor, " M"], classes: int
    ) -> "NeighbourDistance":
        """Remember the images."""
        return cls(F.normalize(placed, dim=1), targets)

    def scores(self, placed: Float[Tensor, "Q D"]) -> Float[Tensor, " Q"]:
        """Distances between unit vectors."""
        blocks = torch.split(F.normalize(placed, dim=1), ROWS_PER_BLOCK)
        return torch.cat([_least_distance(block @ self.support.T) for block in blocks])

    def scores_without(
        self, placed: Float[Tensor, "K D"], targets: Int[Tensor, " K"]
    ) -> Float[Tensor, " K"]:
        """The image itself, the nearest of its class, does not count."""
        cosines = F.normalize(placed, dim=1) @ self.support.T
        own = cosines.masked_fill(targets[:, None] != self.targets, -torch.inf)
        return _least_distance(cosines.scatter(1, own.argmax(dim=1, keepdim=True), -torch.inf))


@dataclass(frozen=True)
class RelativeMahalanobis:
    """Least squared distance to a class mean, less that to the mean of all (Ren et al., 2021).

    https://arxiv.org/abs/2106.09022. The first is under the covariance within classes, the second
    under that of all images; both are shrunk as in the Mahalanobis head. Deviating from the paper,
    the mean of all is not that of the labeled images but where `place` has put the origin: the
    mean of all images of the project, among which there may be some of unseen classes.
    """

    within: Scatter
    whole: "_Whole"

    @classmethod
    def fit(
        cls, placed: Float[Tensor, "M D"], targets: Int[Tensor, " M"], classes: int
    ) -> "RelativeMahalanobis":
        """Learn both covariances."""
        shots = torch.bincount(targets, minlength=classes)
        means = class_means(placed, targets, shots)
        whole = _Whole(len(targets), *spectrum(placed.double()))
        return cls(Scatter.of(placed, targets, means, shots), whole)

    def scores(self, placed: Float[Tensor, "Q D"]) -> Float[Tensor, " Q"]:
        """min_c MD_c - MD_0."""
        squares = self.within.squares(placed, STRENGTH)
        return squares.min(dim=1).values - self.whole.squares(placed)

    def scores_without(
        self, placed: Float[Tensor, "K D"], targets: Int[Tensor, " K"]
    ) -> Float[Tensor, " K"]:
        """By taking the image's part out of both covariances and of its class mean."""
        left = self.within.without(self.within.rows(placed, targets), STRENGTH)
        squares = left.length[:, None] - 2 * left.scores
        squares = squares.scatter(1, targets[:, None], left.own[:, None])
        return squares.min(dim=1).values - self.whole.squares_without(placed)


class _Whole(NamedTuple):
    """The eigenvectors of the mean of x x' over unit vectors x, whose trace is 1."""

    images: int
    eigenvalues: Float[Tensor, " E"]  # times the number of images
    basis: Float[Tensor, "D E"]

    def squares(self, placed: Float[Tensor, "Q D"]) -> Float[Tensor, " Q"]:
        """Squared distances to the origin, under the inverse after shrinkage."""
        return self._lengths(placed, self.images)

    def squares_without(self, placed: Float[Tensor, "K D"]) -> Float[Tensor, " K"]:
        """Those of images that are among the vectors, each taken out (Sherman and Morrison)."""
        others = self.images - 1
        lengths = self._lengths(placed, others)
        return lengths / (1 - lengths / others)

    def _lengths(self, placed: Float[Tensor, "Q D"], images: int) -> Float[Tensor, " Q"]:
        wide = placed.double()
        inside = (wide @ self.basis).square()
        beyond = (wide.square().sum(dim=1) - inside.sum(dim=1)).clamp_min(0)
        added = STRENGTH / max(images - 1, 1)
        return inside @ (1 / (self.eigenvalues / images + added)) + beyond / added


class _Standard(NamedTuple):
    """A measure, and what it says of known images."""

    measure: Measure
    mean: float
    deviation: float


@dataclass(frozen=True)
class Detector:
    """Both measures on one scale: in standard deviations of known images, averaged.

    The second is the better one where classes are round, the first where they have several looks.
    """

    parts: list[_Standard]
    known: Float[Tensor, " K"]  # leave-one-out scores of labeled images, ascending

    @classmethod
    def fit(
        cls, placed: Float[Tensor, "M D"], targets: Int[Tensor, " M"], classes: int
    ) -> "Detector":
        """Fit both measures; an image alone in its class cannot be left out.

        Raises:
            TooFewShots: no class has two images.
        """
        rows = sample(targets)
        rows = rows[torch.bincount(targets)[targets[rows]] > 1]
        if not len(rows):
            raise TooFewShots("no label has two images, so that none can be left out to judge by")
        parts, known = [], torch.zeros(len(rows), dtype=torch.float64)
        for kind in (NeighbourDistance, RelativeMahalanobis):
            measure: Measure = kind.fit(placed, targets, classes)
            left = measure.scores_without(placed[rows], targets[rows]).double()
            deviation = max(float(left.std(correction=0)), LEAST_DEVIATION)
            parts.append(_Standard(measure, float(left.mean()), deviation))
            known += (left - left.mean()) / deviation / 2
        return cls(parts, known.sort().values)

    def scores(self, placed: Float[Tensor, "Q D"]) -> Float[Tensor, " Q"]:
        """0 is what known images have on average."""
        found = [(m.scores(placed).double() - mean) / scale for m, mean, scale in self.parts]
        return torch.stack(found).mean(dim=0)

    def threshold(self, false_rejection: float) -> float:
        """What that share of further known images exceeds, or fewer.

        Raises:
            TooFewShots: the labeled images are too few to tell.
        """
        found = quantile(self.known, 1 - false_rejection)
        if math.isinf(found):
            needed = math.ceil(1 / false_rejection - 1 - 1e-9)
            raise TooFewShots(
                f"a false rejection of {false_rejection:g} needs {needed} images of labels that "
                f"have two or more; there are {len(self.known)}"
            )
        return found


@dataclass(frozen=True)
class Unknowns:
    """Tells images of no class from those of the labeled ones."""

    mean: Float[Tensor, " D"]  # that is subtracted from embeddings
    detector: Detector
    trials: list[tuple[Detector, Tensor]]  # without a class, and the scores of its images

    def scores(self, queries: Float[Tensor, "Q D"]) -> Float[Tensor, " Q"]:
        """How unlike all labeled images each query is."""
        return self.detector.scores(place(queries, self.mean))

    def rejection(self, false_rejection: float) -> Rejection:
        """The threshold for a rate of false rejections, and what it catches.

        Leave-one-out holds images against others of which their own class has a shot less, so that
        with few shots fewer are rejected than asked for.

        Raises:
            TooFewShots: the labeled images are too few to tell.
        """
        threshold = self.detector.threshold(false_rejection)
        caught = []
        for detector, scores in self.trials:
            try:
                beyond = scores > detector.threshold(false_rejection)
            except TooFewShots:
                continue
            caught.append(float(beyond.double().mean()))
        return Rejection(threshold, sum(caught) / len(caught) if caught else None)


def fit(
    embeddings: Float[Tensor, "M D"],
    targets: Int[Tensor, " M"],
    classes: int,
    mean: Float[Tensor, " D"] | None,
) -> Unknowns:
    """Learn what labeled images are like, and what it is like to miss one of their classes.

    Args:
        targets: the class of each row, from 0 to `classes - 1`; each class occurs.
        mean: of all images of the project; that of the labeled ones where it is None.

    Raises:
        TooFewShots: no class has two images.
    """
    if mean is None:
        mean = place(embeddings, None).mean(dim=0)
    placed = place(embeddings, mean)
    return Unknowns(mean, Detector.fit(placed, targets, classes), _trials(placed, targets))


def _trials(
    placed: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
) -> list[tuple[Detector, Tensor]]:
    """Leave-one-class-out: detectors that never saw a class, and how they score it.

    Of many classes and images it is some, evenly chosen.
    """
    classes = int(targets.max()) + 1
    chosen = _evenly(torch.arange(classes), JUDGED_CLASSES)
    rows = torch.isin(targets, chosen).nonzero().squeeze(1)
    rows = _evenly(rows[targets[rows].argsort(stable=True)], JUDGED_IMAGES)
    placed, targets = placed[rows], torch.searchsorted(chosen, targets[rows])
    found = []
    for target in range(len(chosen) if len(chosen) > 2 else 0):
        own = targets == target
        others = targets[~own] - (targets[~own] > target).long()
        try:
            detector = Detector.fit(placed[~own], others, len(chosen) - 1)
        except TooFewShots:
            continue
        found.append((detector, detector.scores(placed[own])))
    return found


def _evenly(values: Int[Tensor, " M"], most: int) -> Int[Tensor, " K"]:
    """All of them, or `most`, evenly."""
    if len(values) <= most:
        return values
    return values[torch.linspace(0, len(values) - 1, most, dtype=torch.float64).long()]


def _least_distance(cosines: Float[Tensor, "Q M"]) -> Float[Tensor, " Q"]:
    """Between unit vectors of these cosines."""
    return (2 - 2 * cosines.max(dim=1).values).clamp_min(0).sqrt()
