"""Images of no class: from which novelty on an image is unknown, and how many are caught."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.heads import center_and_normalize, evenly_spread
from models.rejection.conformal import quantile
from models.rejection.novelty import NeighbourDistance, NoveltyMeasure, RelativeMahalanobis

LEAST_DEVIATION = 0.01  # of images that are all the same


JUDGED_CLASSES, JUDGED_IMAGES = 20, 300  # at most, to estimate what is caught


class TooFewToReject(ValueError):
    """Too few images can be left out for the rate of false rejections that is wanted."""


class Rejection(NamedTuple):
    """From where on images are unknown, and how many of unseen classes these are."""

    threshold: float
    caught: float | None  # estimated share; None with fewer than three classes, or too few shots


class _Standard(NamedTuple):
    """A measure, and what it says of known images."""

    measure: NoveltyMeasure
    mean: float
    deviation: float


@dataclass(frozen=True)
class NoveltyDetector:
    """Both measures on one scale: in standard deviations of known images, averaged.

    The second is the better one where classes are round, the first where they have several looks.
    """

    parts: list[_Standard]
    known_scores: Float[Tensor, " K"]  # leave-one-out scores of labeled images, ascending

    @classmethod
    def fit(
        cls, normalized: Float[Tensor, "M D"], targets: Int[Tensor, " M"], classes: int
    ) -> "NoveltyDetector":
        """Fit both measures; an image alone in its class cannot be left out.

        Raises:
            TooFewToReject: no class has two images.
        """
        rows = evenly_spread(targets)
        rows = rows[torch.bincount(targets)[targets[rows]] > 1]
        if not len(rows):
            raise TooFewToReject(
                "no label has two images, so that none can be left out to judge by"
            )
        parts, known_scores = [], torch.zeros(len(rows), dtype=torch.float64)
        for kind in (NeighbourDistance, RelativeMahalanobis):
            measure: NoveltyMeasure = kind.fit(normalized, targets, classes)
            left_out = measure.leave_one_out_scores(normalized[rows], targets[rows]).double()
            deviation = max(float(left_out.std(correction=0)), LEAST_DEVIATION)
            parts.append(_Standard(measure, float(left_out.mean()), deviation))
            known_scores += (left_out - left_out.mean()) / deviation / 2
        return cls(parts, known_scores.sort().values)

    def scores(self, normalized: Float[Tensor, "Q D"]) -> Float[Tensor, " Q"]:
        """0 is what known images have on average."""
        standardized = [
            (m.scores(normalized).double() - mean) / scale for m, mean, scale in self.parts
        ]
        return torch.stack(standardized).mean(dim=0)

    def threshold(self, false_rejection: float) -> float:
        """What that share of further known images exceeds, or fewer.

        Raises:
            TooFewToReject: the labeled images are too few to tell.
        """
        threshold = quantile(self.known_scores, 1 - false_rejection)
        if math.isinf(threshold):
            needed = math.ceil(1 / max(false_rejection, 1e-9) - 1 - 1e-9)
            raise TooFewToReject(
                f"a false rejection of {false_rejection:g} needs {needed} images of labels that "
                f"have two or more; there are {len(self.known_scores)}"
            )
        return threshold


@dataclass(frozen=True)
class OpenSetDetector:
    """Tells images of no class from those of the labeled ones."""

    mean: Float[Tensor, " D"]  # that is subtracted from embeddings
    detector: NoveltyDetector
    trials: list[tuple[NoveltyDetector, Tensor]]  # without a class, and the scores of its images

    def scores(self, queries: Float[Tensor, "Q D"]) -> Float[Tensor, " Q"]:
        """How unlike all labeled images each query is."""
        return self.detector.scores(center_and_normalize(queries, self.mean))

    def rejection(self, false_rejection: float) -> Rejection:
        """The threshold for a rate of false rejections, and what it catches.

        Leave-one-out holds images against others of which their own class has a shot less, so that
        with few shots fewer are rejected than asked for.

        Raises:
            TooFewToReject: the labeled images are too few to tell.
        """
        threshold = self.detector.threshold(false_rejection)
        caught = []
        for detector, scores in self.trials:
            try:
                beyond = scores > detector.threshold(false_rejection)
            except TooFewToReject:
                continue
            caught.append(float(beyond.double().mean()))
        return Rejection(threshold, sum(caught) / len(caught) if caught else None)


def fit(
    embeddings: Float[Tensor, "M D"],
    targets: Int[Tensor, " M"],
    classes: int,
    mean: Float[Tensor, " D"] | None,
) -> OpenSetDetector:
    """Learn what labeled images are like, and what it is like to miss one of their classes.

    Args:
        targets: the class of each row, from 0 to `classes - 1`; each class occurs.
        mean: of all images of the project; that of the labeled ones where it is None.

    Raises:
        TooFewToReject: no class has two images.
    """
    if mean is None:
        mean = center_and_normalize(embeddings, None).mean(dim=0)
    normalized = center_and_normalize(embeddings, mean)
    return OpenSetDetector(
        mean, NoveltyDetector.fit(normalized, targets, classes), _trials(normalized, targets)
    )


def _trials(
    normalized: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
) -> list[tuple[NoveltyDetector, Tensor]]:
    """Leave-one-class-out: detectors that never saw a class, and how they score it.

    Of many classes and images it is some, evenly chosen.
    """
    classes = int(targets.max()) + 1
    selected = _evenly(torch.arange(classes), JUDGED_CLASSES)
    rows = torch.isin(targets, selected).nonzero().squeeze(1)
    rows = _evenly(rows[targets[rows].argsort(stable=True)], JUDGED_IMAGES)
    normalized, targets = normalized[rows], torch.searchsorted(selected, targets[rows])
    trials = []
    for target in range(len(selected) if len(selected) > 2 else 0):
        is_novel = targets == target
        renumbered = targets[~is_novel] - (targets[~is_novel] > target).long()
        try:
            detector = NoveltyDetector.fit(normalized[~is_novel], renumbered, len(selected) - 1)
        except TooFewToReject:
            continue
        trials.append((detector, detector.scores(normalized[is_novel])))
    return trials


def _evenly(values: Int[Tensor, " M"], most: int) -> Int[Tensor, " K"]:
    """All of them, or `most`, evenly."""
    if len(values) <= most:
        return values
    return values[torch.linspace(0, len(values) - 1, most, dtype=torch.float64).long()]
