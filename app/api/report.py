"""How good a project is, what is wrong with its labels, and whether they are enough."""

from typing import Annotated, Any

from fastapi import Query, Response

from app.api import resource_router
from app.api.parts import MapService, ReportService
from app.http.openapi import problem_responses
from app.http.parameters import ProjectKey
from app.report import charts
from app.report.analysis import Analysis
from app.report.learned_images import warn_of_learned
from app.report.report import LabelFigures, Report
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

router = resource_router("/v1/projects/{project}", tags=["report"])
MEDIA_TYPE = "image/svg+xml"
CHART: dict[int | str, dict[str, Any]] = {
    200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}},
    **problem_responses(404, 422),
}


def show_interval(interval: Interval | None) -> IntervalRead | None:
    """A value between its bounds; None stays None."""
    return None if interval is None else IntervalRead(**interval._asdict())


def show_report(report: Report) -> ReportRead:
    """All figures of a project; null where labels are too few for one."""
    analysis = report.analysis
    return ReportRead(
        encoder=report.encoder_id,
        head=report.head,
        chosen=ChosenRead(**analysis.head._asdict()) if analysis.head else None,
        support=report.support,
        learned_images=report.learned_images,
        optimistic=warn_of_learned(report.learned_images, report.support),
        pool=report.pool,
        enough=EnoughRead(answer=report.verdict.enough, reason=report.verdict.reason),
        judged=analysis.judged,
        accuracy=show_interval(analysis.accuracy),
        rests_on=_basis(analysis),
        labels=[_figures(label) for label in report.labels],
        confusions=[ConfusionRead(**pair._asdict()) for pair in analysis.confusions],
        calibration=_calibration(analysis),
        label_errors=[
            LabelErrorRead(
                image=error.image_id,
                label=error.label,
                suggested=error.suggested,
                probability=error.probability,
            )
            for error in analysis.errors
        ],
        contradictions=[
            ContradictionRead(
                images=list(twins.images), labels=list(twins.labels), cosine=twins.cosine
            )
            for twins in analysis.contradictions
        ],
        compared=analysis.compared,
        unseen=show_interval(report.unseen),
        learning_curve=[CurvePointRead(**point._asdict()) for point in analysis.curve],
        forecast=_forecast(analysis),
        missing=analysis.missing,
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
    analysis = reports.find_analysis(project)
    if not analysis.curve:
        return _missing("Accuracy by the number of labels", analysis)
    ahead = analysis.forecast
    return _svg(
        charts.learning_curve(
            [(point.labels, point.accuracy) for point in analysis.curve],
            (ahead.labels, *ahead.accuracy) if ahead else None,
            labels=analysis.support,
        )
    )


@router.get("/report/confusion.svg", response_class=Response, responses=CHART)
def draw_confusion(project: ProjectKey, reports: ReportService) -> Response:
    """A picture of what is taken for what."""
    analysis = reports.find_analysis(project)
    if analysis.matrix is None:
        return _missing("What is taken for what", analysis)
    return _svg(charts.confusion(analysis.matrix.tolist(), analysis.names))


@router.get("/report/map", responses=problem_responses(404, 422))
def read_map(project: ProjectKey, maps: MapService) -> MapRead:
    """The images in two dimensions; a random 3,000 where there are more."""
    image_map = maps.draw(project)
    return MapRead(
        images=image_map.images,
        explained=list(image_map.explained),
        points=[
            MapPointRead(
                image=point.image_id,
                x=point.x,
                y=point.y,
                label=point.label,
                confidence=None if point.doubt is None else 1 - point.doubt,
            )
            for point in image_map.points
        ],
    )


@router.get("/report/map.svg", response_class=Response, responses=CHART)
def draw_map(project: ProjectKey, maps: MapService) -> Response:
    """A picture of the images in two dimensions, by label and by how sure it is."""
    image_map = maps.draw(project)
    if not image_map.points:
        text = f"{image_map.images} image(s) have an embedding; a map needs two."
        return _svg(charts.message("The images in two dimensions", text))
    points = [charts.Point(p.x, p.y, p.label, p.doubt) for p in image_map.points]
    return _svg(charts.image_map(points, image_map.explained, image_map.images))


def _figures(label: LabelFigures) -> LabelFiguresRead:
    return LabelFiguresRead(
        label=label.label,
        shots=label.shots,
        recall=show_interval(label.recall),
        precision=show_interval(label.precision),
    )


def _basis(analysis: Analysis) -> BasisRead | None:
    basis = analysis.rests_on
    return BasisRead(images=basis.images, drawn=basis.random) if basis else None


def _calibration(analysis: Analysis) -> CalibrationRead | None:
    if analysis.calibration is None:
        return None
    probability, accuracy, counts = (part.tolist() for part in analysis.calibration)
    return CalibrationRead(
        error=analysis.calibration.error,
        curve=[
            CalibrationBinRead(probability=p, accuracy=a, images=n)
            for p, a, n in zip(probability, accuracy, counts, strict=True)
        ],
    )


def _forecast(analysis: Analysis) -> ForecastRead | None:
    if analysis.forecast is None:
        return None
    return ForecastRead(
        labels=analysis.forecast.labels,
        accuracy=IntervalRead(**analysis.forecast.accuracy._asdict()),
        gain=IntervalRead(**analysis.forecast.gain._asdict()),
    )


def _missing(title: str, analysis: Analysis) -> Response:
    reason = analysis.missing[0] if analysis.missing else "there are too few labels"
    return _svg(charts.message(title, f"Not yet: {reason}."))


def _svg(picture: str) -> Response:
    """An SVG that may neither run nor load anything, wherever it is opened."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return Response(picture, media_type=MEDIA_TYPE, headers={"Content-Security-Policy": policy})
