"""What leave-one-out and parts of the support say of a project's labels."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from uuid import UUID

import torch
from jaxtyping import Float, Int
from sqlalchemy import select
from sqlalchemy.orm import Session
from torch import Tensor

from app.prediction.predictor import Predictor
from app.sql.head_choices import LEARNED
from app.sql.tables import Reservation
from handful.contract.report import ALIKE
from models.embeddings.near_duplicates import contradicting_twins
from models.evaluation import confusion
from models.evaluation.calibration_curve import Reliability, reliability_curve
from models.evaluation.forecast import (
    Forecast,
    LearningCurve,
    TooFewToForecast,
    forecast,
    learning_curve,
)
from models.evaluation.intervals import Interval, weighted_accuracy, wilson
from models.evaluation.label_errors import label_errors
from models.heads import FittedHead
from models.heads.kinds import heads
from models.heads.network import ModuleHead
from models.registry import plugin_name

FEWEST_JUDGED = 10  # images, for figures that a word can rest on
FEWEST_RANDOM = 20  # images drawn at random, before accuracy rests on them alone
MOST_PAIRS, EXAMPLES = 20, 4  # confusions, and images of each
MOST_ERRORS, MOST_TWINS = 100, 100
MOST_COMPARED = 10_000  # support images, the latest: comparing all pairs grows with the square
CURVE_HEAD = "cosine"  # cheap enough to fit some two hundred times


class Confusion(NamedTuple):
    """Images with one label that the head takes for another, when it has not seen them."""

    label: str
    taken_for: str
    images: int
    share: float  # of the judged images with the label
    examples: list[UUID]


class LabelError(NamedTuple):
    """An image whose label is probably wrong."""

    image_id: UUID
    label: str
    suggested: str
    probability: float


class Contradiction(NamedTuple):
    """Two images that look the same and have different labels."""

    images: tuple[UUID, UUID]
    labels: tuple[str, str]
    cosine: float


class CurvePoint(NamedTuple):
    """Accuracy with fewer labels than there are."""

    labels: int
    accuracy: float


class Basis(NamedTuple):
    """The images that accuracy rests on."""

    images: int
    random: bool  # drawn so from the pool; otherwise all that can be judged, however chosen


class HeadDescription(NamedTuple):
    """The head that answers, with all that it chose by leave-one-out."""

    name: str
    options: dict[str, Any]
    log_losses: dict[str, float | None]  # of all that it was chosen from; None: not to be told
    leave_one_out: str


@dataclass(frozen=True)
class Analysis:
    """What leave-one-out and parts of the support say; empty while there are too few labels."""

    head: HeadDescription | None = None
    support: int = 0
    judged: int = 0
    accuracy: Interval | None = None
    rests_on: Basis | None = None
    figures: dict[str, tuple[Interval | None, Interval | None]] = field(default_factory=dict)
    matrix: Tensor | None = None  # (C, C), judged images by label and prediction
    names: list[str] = field(default_factory=list)
    confusions: list[Confusion] = field(default_factory=list)
    calibration: Reliability | None = None
    errors: list[LabelError] = field(default_factory=list)
    contradictions: list[Contradiction] = field(default_factory=list)
    compared: int = 0
    curve: list[CurvePoint] = field(default_factory=list)
    forecast: Forecast | None = None
    missing: list[str] = field(default_factory=list)


def read_propensities(session: Session, project_id: UUID) -> dict[UUID, float]:
    """The images that were drawn from the pool at random and labeled then, and how likely."""
    query = select(Reservation.image_id, Reservation.propensity).where(
        Reservation.project_id == project_id,
        Reservation.outcome == "labeled",
        Reservation.propensity > 0,
    )
    return {image: propensity for image, propensity in session.execute(query) if propensity}


def analyse(predictor: Predictor, propensities: dict[UUID, float]) -> Analysis:
    """Judge each labeled image by all others, and parts of the support by the rest.

    Args:
        propensities: of the images that were drawn from the pool at random.
    """
    targets = predictor.targets
    vectors = predictor.support.vectors[predictor.rows].float()
    shots = torch.bincount(targets, minlength=len(predictor.names))
    contradictions, compared = _contradictions(predictor, vectors)
    analysis = Analysis(
        head=_describe_head(predictor.head),
        support=len(targets),
        contradictions=contradictions,
        compared=compared,
    )
    judged = shots[targets] > 1
    if int(judged.sum()) < FEWEST_JUDGED:
        reason = (
            f"{int(judged.sum())} images can be judged by the others with their label; "
            f"label at least {FEWEST_JUDGED}, two or more of each label"
        )
        return replace(analysis, missing=[reason])
    probabilities = predictor.head.leave_one_out(vectors, targets).softmax(dim=1)
    analysis = _judge(analysis, predictor, probabilities, judged, propensities)
    correct = probabilities.argmax(dim=1) == targets
    curve, expected, missing = _look_ahead(predictor, vectors, correct)
    lone = [
        f"label {name!r} has one image, which no other can judge"
        for name, count in zip(predictor.names, shots.tolist(), strict=True)
        if count == 1
    ]
    return replace(analysis, curve=curve, forecast=expected, missing=lone + missing)


def _judge(
    analysis: Analysis,
    predictor: Predictor,
    probabilities: Float[Tensor, "M C"],
    judged: Tensor,
    propensities: dict[UUID, float],
) -> Analysis:
    """Add the figures that rest on what the others say of each image."""
    targets, names = predictor.targets, predictor.names
    confidence, predicted = probabilities.max(dim=1)
    correct = predicted == targets
    accuracy, rests_on = _accuracy(predictor, correct, judged, propensities)
    matrix = confusion.confusion_matrix(targets[judged], predicted[judged], len(names))
    return replace(
        analysis,
        judged=int(judged.sum()),
        accuracy=accuracy,
        rests_on=rests_on,
        figures=_figures(matrix, names),
        matrix=matrix,
        names=names,
        confusions=_confusions(predictor, matrix, judged, predicted, confidence),
        calibration=reliability_curve(confidence[judged], correct[judged]),
        errors=_errors(predictor, probabilities, judged),
    )


def _look_ahead(
    predictor: Predictor, vectors: Float[Tensor, "M D"], correct: Tensor
) -> tuple[list[CurvePoint], Forecast | None, list[str]]:
    """Accuracy by the number of labels, what twice as many would bring, and why that is missing."""
    mean = predictor.head.mean
    head = heads[CURVE_HEAD](**{"temperature": 1.0, "centered": mean is not None})
    curve = learning_curve(head, vectors, predictor.targets, mean=mean, leave_one_out=correct)
    try:
        return _points(curve), forecast(curve, 2 * len(vectors)), []
    except TooFewToForecast as error:
        return _points(curve), None, [str(error)]


def _accuracy(
    predictor: Predictor, correct: Tensor, judged: Tensor, propensities: dict[UUID, float]
) -> tuple[Interval, Basis]:
    """On images as they come: by those drawn at random, where there are enough of them.

    Each stands for as many images as it was unlikely to be drawn (Horvitz & Thompson, 1952).
    """
    rows = judged.nonzero().squeeze(1)
    members = [m for m in rows.tolist() if _image(predictor, m) in propensities]
    if len(members) >= FEWEST_RANDOM:
        shares = [propensities[_image(predictor, m)] for m in members]
        weights = 1 / torch.tensor(shares, dtype=torch.float64)
        return weighted_accuracy(correct[members], weights), Basis(len(members), random=True)
    share = float(correct[rows].double().mean())
    return wilson(share, float(len(rows))), Basis(len(rows), random=False)


def _describe_head(head: FittedHead) -> HeadDescription:
    """What a fitted head is, and what it was chosen from."""
    learned, options = isinstance(head.options, ModuleHead), dict(vars(head.options))
    options.pop("network", None)
    return HeadDescription(
        LEARNED if learned else plugin_name(head.options),
        options,
        {name: None if math.isnan(loss) else loss for name, loss in head.losses.items()},
        "exact" if head.leaves_out_exactly else "folds",
    )


def _figures(
    matrix: Int[Tensor, "C C"], names: list[str]
) -> dict[str, tuple[Interval | None, Interval | None]]:
    """Recall and precision of each label."""
    actual, predicted = matrix.sum(dim=1).tolist(), matrix.sum(dim=0).tolist()
    hits = matrix.diagonal().tolist()
    return {
        name: (
            wilson(hits[c] / actual[c], float(actual[c])) if actual[c] else None,
            wilson(hits[c] / predicted[c], float(predicted[c])) if predicted[c] else None,
        )
        for c, name in enumerate(names)
    }


def _confusions(
    predictor: Predictor,
    matrix: Int[Tensor, "C C"],
    judged: Tensor,
    predicted: Int[Tensor, " M"],
    confidence: Float[Tensor, " M"],
) -> list[Confusion]:
    """The most frequent confusions, each with the images that are taken for it most surely."""
    confusions = []
    for pair in confusion.confused_pairs(matrix, MOST_PAIRS):
        mask = judged & (predictor.targets == pair.actual) & (predicted == pair.predicted)
        members = mask.nonzero().squeeze(1)
        surest = members[confidence[members].argsort(descending=True, stable=True)[:EXAMPLES]]
        confusions.append(
            Confusion(
                predictor.names[pair.actual],
                predictor.names[pair.predicted],
                pair.images,
                pair.share,
                [_image(predictor, m) for m in surest.tolist()],
            )
        )
    return confusions


def _errors(
    predictor: Predictor, probabilities: Float[Tensor, "M C"], judged: Tensor
) -> list[LabelError]:
    """Likely label errors; an image alone with its label cannot be doubted by the others."""
    rows = judged.nonzero().squeeze(1)
    errors = label_errors(probabilities[rows], predictor.targets[rows])
    return [
        LabelError(
            _image(predictor, m),
            predictor.names[int(predictor.targets[m])],
            predictor.names[suggested],
            p,
        )
        for m, suggested, p in zip(
            rows[errors.rows[:MOST_ERRORS]].tolist(),
            errors.suggested[:MOST_ERRORS].tolist(),
            errors.probability[:MOST_ERRORS].tolist(),
            strict=True,
        )
    ]


def _contradictions(
    predictor: Predictor, vectors: Float[Tensor, "M D"]
) -> tuple[list[Contradiction], int]:
    start = max(len(vectors) - MOST_COMPARED, 0)
    targets = predictor.targets[start:]
    twins = contradicting_twins(vectors[start:], targets, above=ALIKE, most=MOST_TWINS)
    return [
        Contradiction(
            (_image(predictor, start + i), _image(predictor, start + j)),
            (predictor.names[int(targets[i])], predictor.names[int(targets[j])]),
            min(cosine, 1.0),
        )
        for i, j, cosine in zip(*(part.tolist() for part in twins), strict=True)
    ], len(targets)


def _image(predictor: Predictor, position: int) -> UUID:
    return predictor.support.image_id(int(predictor.rows[position]))


def _points(curve: LearningCurve) -> list[CurvePoint]:
    return [
        CurvePoint(size, accuracy)
        for size, accuracy in zip(curve.sizes.tolist(), curve.accuracy.tolist(), strict=True)
    ]
