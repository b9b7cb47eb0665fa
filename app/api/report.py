"""How good a project is, what is wrong with its labels, and whether they are enough."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from app import charts
from app.api import ProjectKey, ReportService, problems
from app.report import ALIKE, Analysis, Report
from models.evaluation.intervals import Interval

router = APIRouter(prefix="/v1/projects/{project}", tags=["report"])

MEDIA_TYPE = "image/svg+xml"
CHART: dict[int | str, dict[str, Any]] = {
    200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}},
    **problems(404, 422),
}


class IntervalRead(BaseModel):
    """A value and between what it lies, each 0 to 1."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, interval: Interval | None) -> "IntervalRead | None":
        return None if interval is None else cls(**interval._asdict())


class BasisRead(BaseModel):
    """The images that the accuracy rests on."""

    images: int
    drawn: bool = Field(
        description="True: only those that were drawn from the pool at random, each weighed by its "
        "propensity. False: all that can be judged, however they were chosen."
    )


class LabelFiguresRead(BaseModel):
    """A label, and how well it is told from the others."""

    label: str
    shots: int
    recall: IntervalRead | None = Field(
        description="Share of its images that are found; 95 % interval. Null: none was judged."
    )
    precision: IntervalRead | None = Field(
        description="Share of the images taken for it that are; 95 % interval. Null: none was."
    )


class ConfusionRead(BaseModel):
    """Images of one label that are taken for another."""

    label: str
    taken_for: str
    images: int
    share: float = Field(description="Of the judged images with the label.")
    examples: list[UUID] = Field(description="Those taken for it most surely.")


class LabelErrorRead(BaseModel):
    """An image whose label is probably wrong; `PUT images/{image}/label` corrects it."""

    image: UUID
    label: str
    suggested: str
    probability: float = Field(description="Of the suggested label.")


class ContradictionRead(BaseModel):
    """Two images that look the same and have different labels."""

    images: list[UUID] = Field(min_length=2, max_length=2)
    labels: list[str] = Field(min_length=2, max_length=2, description="Of each.")
    cosine: float


class CalibrationBinRead(BaseModel):
    """Predictions of about the same probability."""

    probability: float = Field(description="Mean of what was said.")
    accuracy: float = Field(description="Share that was right.")
    images: int


class CalibrationRead(BaseModel):
    """Whether what is said with 80 % is right in 80 of 100 cases."""

    error: float = Field(description="Expected calibration error, 0 to 1.")
    curve: list[CalibrationBinRead]


class CurvePointRead(BaseModel):
    """Accuracy with a part of the labels."""

    labels: int
    accuracy: float


class ForecastRead(BaseModel):
    """What twice the labels would bring; intervals hold with 80 %."""

    labels: int
    accuracy: IntervalRead
    gain: IntervalRead = Field(description="Over the accuracy now; may be negative.")


class EnoughRead(BaseModel):
    """A plain answer."""

    answer: bool | None = Field(description="Null: it cannot be told yet.")
    reason: str


class ChosenRead(BaseModel):
    """The head that answers, with all that it chose by leave-one-out."""

    name: str
    options: dict[str, Any]
    log_losses: dict[str, float | None] = Field(
        description="With the heads `auto` and `blend`, of all that they were made from, labels "
        "counting alike. Null: with one shot of each label there is nothing to leave out."
    )


class ReportRead(BaseModel):
    """How good a project is. Judged by leave-one-out: each image by all others."""

    encoder: UUID
    head: dict[str, Any] = Field(description="As the project asks for.")
    chosen: ChosenRead | None = Field(description="What that became; null with too few labels.")
    support: int = Field(description="Images with a label.")
    pool: int = Field(description="Images without a label.")
    enough: EnoughRead
    judged: int = Field(description="Images that others with their label can judge.")
    accuracy: IntervalRead | None = Field(description="Share that is right; 95 % interval.")
    rests_on: BasisRead | None = Field(
        description="What `accuracy` is measured on. On images drawn at random it holds for the "
        "pool; otherwise for the labeled images."
    )
    labels: list[LabelFiguresRead]
    confusions: list[ConfusionRead] = Field(description="Most frequent first.")
    calibration: CalibrationRead | None
    label_errors: list[LabelErrorRead] = Field(description="Surest first, 100 at most.")
    contradictions: list[ContradictionRead] = Field(
        description=f"Cosine of {ALIKE} and above, most alike first, 100 at most."
    )
    compared: int = Field(description="Images among which these were looked for: the latest.")
    unseen: IntervalRead | None = Field(
        description="Share of images whose label does not exist yet, by those labeled out of the "
        "pool; 95 % interval."
    )
    learning_curve: list[CurvePointRead]
    forecast: ForecastRead | None
    missing: list[str] = Field(description="Why figures are null or images were not judged.")

    @classmethod
    def of(cls, report: Report) -> "ReportRead":
        found = report.analysis
        return cls(
            encoder=report.encoder_id,
            head=report.head,
            chosen=ChosenRead(**found.chosen._asdict()) if found.chosen else None,
            support=report.support,
            pool=report.pool,
            enough=EnoughRead(answer=report.verdict.enough, reason=report.verdict.reason),
            judged=found.judged,
            accuracy=IntervalRead.of(found.accuracy),
            rests_on=BasisRead(**found.rests_on._asdict()) if found.rests_on else None,
            labels=[
                LabelFiguresRead(
                    label=one.label,
                    shots=one.shots,
                    recall=IntervalRead.of(one.recall),
                    precision=IntervalRead.of(one.precision),
                )
                for one in report.labels
            ],
            confusions=[ConfusionRead(**one._asdict()) for one in found.confusions],
            calibration=_calibration(found),
            label_errors=[
                LabelErrorRead(
                    image=one.image_id,
                    label=one.label,
                    suggested=one.suggested,
                    probability=one.probability,
                )
                for one in found.errors
            ],
            contradictions=[
                ContradictionRead(
                    images=list(one.images), labels=list(one.labels), cosine=one.cosine
                )
                for one in found.contradictions
            ],
            compared=found.compared,
            unseen=IntervalRead.of(report.unseen),
            learning_curve=[CurvePointRead(**one._asdict()) for one in found.curve],
            forecast=_forecast(found),
            missing=found.missing,
        )


Target = Annotated[
    float | None,
    Query(gt=0, lt=1, description="The accuracy that is wanted; null: as much as labels give."),
]


class MapPointRead(BaseModel):
    """An image in two dimensions."""

    image: UUID
    x: float
    y: float
    label: str | None = Field(description="Its own, or the likeliest; null without two labels.")
    confidence: float | None = Field(
        description="Probability of the likeliest label; null for an image that has its own."
    )


class MapRead(BaseModel):
    """Images along the two directions in which their embeddings vary most."""

    images: int = Field(description="That have an embedding; a random part of many is drawn.")
    explained: list[float] = Field(description="Share of the variance of both directions.")
    points: list[MapPointRead]


@router.get("/report", responses=problems(404, 422))
def read_report(project: ProjectKey, reports: ReportService, target: Target = None) -> ReportRead:
    """How good the project is, which labels are wrong, and whether there are enough of them."""
    return ReportRead.of(reports.report(project, target))


@router.get("/report/learning-curve.svg", response_class=Response, responses=CHART)
def draw_learning_curve(project: ProjectKey, reports: ReportService) -> Response:
    """A picture of accuracy by the number of labels, and of what twice as many would bring."""
    found = reports.find_analysis(project)
    if not found.curve:
        return _missing("Accuracy by the number of labels", found)
    ahead = found.forecast
    return _svg(
        charts.learning_curve(
            [(one.labels, one.accuracy) for one in found.curve],
            (ahead.labels, *ahead.accuracy) if ahead else None,
            now=found.support,
        )
    )


@router.get("/report/confusion.svg", response_class=Response, responses=CHART)
def draw_confusion(project: ProjectKey, reports: ReportService) -> Response:
    """A picture of what is taken for what."""
    found = reports.find_analysis(project)
    if found.matrix is None:
        return _missing("What is taken for what", found)
    return _svg(charts.confusion(found.matrix.tolist(), found.names))


@router.get("/report/map", responses=problems(404, 422))
def read_map(project: ProjectKey, reports: ReportService) -> MapRead:
    """The images in two dimensions; a random 3,000 where there are more."""
    found = reports.map(project)
    return MapRead(
        images=found.images,
        explained=list(found.explained),
        points=[
            MapPointRead(
                image=point.image_id,
                x=point.x,
                y=point.y,
                label=point.label,
                confidence=None if point.doubt is None else 1 - point.doubt,
            )
            for point in found.points
        ],
    )


@router.get("/report/map.svg", response_class=Response, responses=CHART)
def draw_map(project: ProjectKey, reports: ReportService) -> Response:
    """A picture of the images in two dimensions, by label and by how sure it is."""
    found = reports.map(project)
    if not found.points:
        text = f"{found.images} image(s) have an embedding; a map needs two."
        return _svg(charts.message("The images in two dimensions", text))
    points = [charts.Point(p.x, p.y, p.label, p.doubt) for p in found.points]
    return _svg(charts.image_map(points, found.explained, found.images))


def _calibration(found: Analysis) -> CalibrationRead | None:
    if found.calibration is None:
        return None
    probability, accuracy, counts = (part.tolist() for part in found.calibration)
    return CalibrationRead(
        error=found.calibration.error,
        curve=[
            CalibrationBinRead(probability=p, accuracy=a, images=n)
            for p, a, n in zip(probability, accuracy, counts, strict=True)
        ],
    )


def _forecast(found: Analysis) -> ForecastRead | None:
    if found.forecast is None:
        return None
    return ForecastRead(
        labels=found.forecast.labels,
        accuracy=IntervalRead(**found.forecast.accuracy._asdict()),
        gain=IntervalRead(**found.forecast.gain._asdict()),
    )


def _missing(title: str, found: Analysis) -> Response:
    reason = found.missing[0] if found.missing else "there are too few labels"
    return _svg(charts.message(title, f"Not yet: {reason}."))


def _svg(picture: str) -> Response:
    """An SVG that may neither run nor load anything, wherever it is opened."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return Response(picture, media_type=MEDIA_TYPE, headers={"Content-Security-Policy": policy})
