"""How good a project is, what is wrong with its labels, and whether they are enough."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from app.api.parts import MapService, ReportService
from app.http.openapi import problem_responses
from app.http.parameters import ProjectKey
from app.report import charts
from app.report.analysis import Analysis
from app.report.report import Report
from handful.contract.report import (
    BasisRead,
    CalibrationBinRead,
    CalibrationRead,
    ChosenRead,
    ConfusionRead,
    ContradictionRead,
    CurvePointRead,
    EnoughRead,
    ForecastRead,
    IntervalRead,
    LabelErrorRead,
    LabelFiguresRead,
    MapPointRead,
    MapRead,
    ReportRead,
)
from models.evaluation.intervals import Interval

router = APIRouter(prefix="/v1/projects/{project}", tags=["report"])
MEDIA_TYPE = "image/svg+xml"
CHART: dict[int | str, dict[str, Any]] = {
    200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}},
    **problem_responses(404, 422),
}


def show_interval(interval: Interval | None) -> IntervalRead | None:
    """Show it as the API does."""
    return None if interval is None else IntervalRead(**interval._asdict())


def show_report(report: Report) -> ReportRead:
    """Show it as the API does."""
    found = report.analysis
    return ReportRead(
        encoder=report.encoder_id,
        head=report.head,
        chosen=ChosenRead(**found.chosen._asdict()) if found.chosen else None,
        support=report.support,
        pool=report.pool,
        enough=EnoughRead(answer=report.verdict.enough, reason=report.verdict.reason),
        judged=found.judged,
        accuracy=show_interval(found.accuracy),
        rests_on=BasisRead(**found.rests_on._asdict()) if found.rests_on else None,
        labels=[
            LabelFiguresRead(
                label=one.label,
                shots=one.shots,
                recall=show_interval(one.recall),
                precision=show_interval(one.precision),
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
            ContradictionRead(images=list(one.images), labels=list(one.labels), cosine=one.cosine)
            for one in found.contradictions
        ],
        compared=found.compared,
        unseen=show_interval(report.unseen),
        learning_curve=[CurvePointRead(**one._asdict()) for one in found.curve],
        forecast=_forecast(found),
        missing=found.missing,
    )


Target = Annotated[
    float | None,
    Query(gt=0, lt=1, description="The accuracy that is wanted; null: as much as labels give."),
]


@router.get("/report", responses=problem_responses(404, 422))
def read_report(project: ProjectKey, reports: ReportService, target: Target = None) -> ReportRead:
    """How good the project is, which labels are wrong, and whether there are enough of them."""
    return show_report(reports.report(project, target))


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


@router.get("/report/map", responses=problem_responses(404, 422))
def read_map(project: ProjectKey, maps: MapService) -> MapRead:
    """The images in two dimensions; a random 3,000 where there are more."""
    found = maps.draw(project)
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
def draw_map(project: ProjectKey, maps: MapService) -> Response:
    """A picture of the images in two dimensions, by label and by how sure it is."""
    found = maps.draw(project)
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
