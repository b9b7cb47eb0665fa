"""How heads and encoder versions do on episodes of labeled images."""

from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from handful.contract.report import IntervalRead


class DifferenceRead(BaseModel):
    """A difference of two shares, and between what it lies, each -1 to 1."""

    value: float
    low: float
    high: float


class EvaluatedModelRead(BaseModel):
    """A head on the embeddings of an encoder version."""

    encoder: UUID
    head: dict[str, Any]
    learned_images: int = Field(
        description="Of the labeled images, those that the encoder version learned from, or whose "
        "label the learned head learned from: on them they do better than on new ones."
    )


class LeftOutLabelRead(BaseModel):
    """A label with too few images for an episode."""

    label: str
    images: int


class LabelAccuracyRead(BaseModel):
    """How often images of a label are told from those of the other labels of an episode."""

    label: str
    accuracy: float


class EpisodeAccuracyRead(BaseModel):
    """How a model does; three intervals of 95 % that answer three questions."""

    model: int = Field(description="Its position in `models`.")
    over_episodes: IntervalRead | None = Field(
        description="Mean accuracy over the episodes, and 1.96 standard errors of it, as papers "
        "have it: how well these images were measured, and no others. Null: fewer than two are "
        "done."
    )
    over_images: IntervalRead | None = Field(
        description="Of other episodes, of which no two share an image: where accuracy lies for "
        "new images of these labels. Null: there are no two, or they are not done."
    )
    over_labels: IntervalRead | None = Field(
        description="A jackknife over labels: where accuracy lies for new labels. Null: there are "
        "30 labels or more, or no episodes without each of them."
    )
    calibration_error: float | None = Field(
        description="Expected calibration error, 0 to 1, of all queries of all episodes."
    )
    labels: list[LabelAccuracyRead]


class PairedDifferenceRead(BaseModel):
    """By how much the accuracy of a model is above that of another on the same episodes."""

    first: int = Field(description="Its position in `models`.")
    second: int = Field(description="That of the other, whose accuracy is taken off.")
    over_episodes: DifferenceRead | None = Field(description="For these images.")
    over_images: DifferenceRead | None = Field(
        description="For new images of these labels; no width where it is the same in each episode."
    )


class ShotsRead(BaseModel):
    """What came out with so many support images of each label."""

    shots: int
    separate_episodes: int = Field(description="Done that share no image, for `over_images`.")
    separate_queries: int = Field(
        description="Query images of each label in these: as many as should measure best."
    )
    models: list[EpisodeAccuracyRead]
    differences: list[PairedDifferenceRead] = Field(description="Between all models.")


class EvaluationRead(BaseModel):
    """How heads and encoder versions do on the same episodes."""

    models: list[EvaluatedModelRead]
    labels: list[str] = Field(description="That episodes are drawn from.")
    left_out: list[LeftOutLabelRead] = Field(
        description="Labels with fewer images than the most shots and the queries together."
    )
    images: int = Field(description="Of these labels, embedded by all encoder versions.")
    episodes: int = Field(description="Asked for.")
    done: int = Field(
        description="Episodes done within `seconds`, the same for all models and shots."
    )
    shots: list[ShotsRead]
    missing: list[str] = Field(description="Why figures are null or images do not count.")
