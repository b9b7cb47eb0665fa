"""How heads and encoder versions do on episodes of labeled images."""

from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import Request
from pydantic import Field, model_validator

from app.api import resource_router
from app.api.choices import HeadChoice
from app.api.parts import EvaluationService, parts_of
from app.http.openapi import problem_responses
from app.http.parameters import ProjectKey
from app.report.evaluation import Evaluated, EvaluationQuery
from app.sql.head_choices import document
from handful.contract.common import Schema, Text
from handful.contract.evaluate import (
    DifferenceRead,
    EpisodeAccuracyRead,
    EvaluatedModelRead,
    EvaluationRead,
    LabelAccuracyRead,
    LeftOutLabelRead,
    PairedDifferenceRead,
    ShotsRead,
)
from handful.contract.report import IntervalRead
from models.evaluation.intervals import Interval
from models.metalearning.episodes import EpisodeShape, bounds
from models.metalearning.evaluation import EpisodeFigures, PairedFigures, ShotFigures
from models.metalearning.intervals import Difference

router = resource_router("/v1/projects/{project}", tags=["report"])
MOST_SUPPORT = 500  # images of an episode: `auto` is fitted to them in about half a second
MOST_QUERIES = 1000
Ways = Annotated[int, Field(ge=2, le=100)]
Shots = Annotated[int, Field(ge=1, le=100)]


class EvaluationRequest(Schema):
    """What to evaluate, and on which episodes."""

    ways: Ways | Annotated[list[Ways], Field(min_length=2, max_length=2)] = Field(
        default=5,
        description="Labels of an episode; a list of two: any number from one to another.",
    )
    shots: list[Shots] = Field(
        default=[1, 5], min_length=1, max_length=8, description="Support images of each label."
    )
    queries: int = Field(default=5, ge=1, le=100, description="Query images of each label.")
    episodes: int = Field(default=600, ge=2, le=100_000)
    heads: list[HeadChoice] | None = Field(
        default=None, min_length=1, max_length=8, description="Null: the project's."
    )
    versions: list[UUID] | None = Field(
        default=None,
        min_length=1,
        max_length=4,
        description="Of the encoder; null: the one that serves.",
    )
    labels: list[Text] | None = Field(
        default=None, min_length=2, max_length=1000, description="Names or ids; null: all."
    )
    seed: int = Field(
        default=0, ge=0, le=2**31, description="The same one draws the same episodes."
    )
    seconds: float = Field(
        default=10,
        gt=0,
        le=60,
        allow_inf_nan=False,
        description="After which what is done is answered; `done` says how many episodes.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Refuse ranges upside down, what is named twice, and episodes that are too large."""
        EpisodeShape(ways=self.range_of_ways, shots=max(self.shots), queries=self.queries)
        for name, values in (
            ("shots", self.shots),
            ("versions", self.versions),
            ("labels", self.labels),
        ):
            if values is not None and len(set(values)) < len(values):
                raise ValueError(f"{name} must differ from each other")
        ways = bounds(self.range_of_ways)[1]
        for size, most, what in (
            (max(self.shots), MOST_SUPPORT, "shots"),
            (self.queries, MOST_QUERIES, "queries"),
        ):
            if ways * size > most:
                raise ValueError(
                    f"{ways} ways with {size} {what} are {ways * size} images of an episode; "
                    f"at most {most} work: ask for fewer of either"
                )
        return self

    @property
    def range_of_ways(self) -> int | tuple[int, int]:
        """The same as episodes take it."""
        return self.ways if isinstance(self.ways, int) else (self.ways[0], self.ways[1])

    def query(self) -> EvaluationQuery:
        """The same as the use case takes it."""
        choices: list[Any] = self.heads or []
        return EvaluationQuery(
            heads=[document(choice.name, choice.options) for choice in choices],
            versions=self.versions or [],
            labels=self.labels,
            ways=self.range_of_ways,
            shots=self.shots,
            queries=self.queries,
            episodes=self.episodes,
            seed=self.seed,
            seconds=self.seconds,
        )


def show_evaluation(evaluated: Evaluated, asked: int) -> EvaluationRead:
    """All figures, by number of shots."""
    return EvaluationRead(
        models=[
            EvaluatedModelRead(
                encoder=model.encoder_id, head=model.head, learned_images=model.learned_images
            )
            for model in evaluated.models
        ],
        labels=[evaluated.names[label] for label in evaluated.labels],
        left_out=[
            LeftOutLabelRead(label=label, images=count)
            for label, count in evaluated.left_out.items()
        ],
        images=evaluated.images,
        episodes=asked,
        done=evaluated.done,
        shots=[_shots(part, evaluated.names) for part in evaluated.shots],
        missing=evaluated.missing,
    )


@router.post("/evaluate", responses=problem_responses(404, 422, 429))
def evaluate_heads(
    project: ProjectKey, body: EvaluationRequest, evaluations: EvaluationService, request: Request
) -> EvaluationRead:
    """How well heads and encoder versions tell labels apart from a few images of each.

    Episodes are drawn from the labeled images, by their stored embeddings; nothing changes. The
    same ones serve all heads and versions.
    """
    stopping = parts_of(request).stopping
    return show_evaluation(evaluations.evaluate(project, body.query(), stopping), body.episodes)


def _shots(part: ShotFigures, names: list[str]) -> ShotsRead:
    return ShotsRead(
        shots=part.shots,
        separate_episodes=part.separate_episodes,
        separate_queries=part.separate_queries,
        models=[_model(n, figures, names) for n, figures in enumerate(part.models)],
        differences=[_pair(pair) for pair in part.pairs],
    )


def _model(position: int, figures: EpisodeFigures, names: list[str]) -> EpisodeAccuracyRead:
    return EpisodeAccuracyRead(
        model=position,
        over_episodes=_interval(figures.over_episodes),
        over_images=_interval(figures.over_images),
        over_labels=_interval(figures.over_labels),
        calibration_error=figures.calibration_error,
        labels=[
            LabelAccuracyRead(label=names[label], accuracy=accuracy)
            for label, accuracy in figures.label_accuracy.items()
        ],
    )


def _pair(pair: PairedFigures) -> PairedDifferenceRead:
    return PairedDifferenceRead(
        first=pair.first,
        second=pair.second,
        over_episodes=_difference(pair.over_episodes),
        over_images=_difference(pair.over_images),
    )


def _interval(interval: Interval | None) -> IntervalRead | None:
    return None if interval is None else IntervalRead(**interval._asdict())


def _difference(difference: Difference | None) -> DifferenceRead | None:
    return None if difference is None else DifferenceRead(**difference._asdict())
