"""How good a project is, what is wrong with its labels, and whether they are enough."""

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

ALIKE = 0.98  # cosine from which images are near-duplicates


class IntervalRead(BaseModel):
    """A value and between what it lies, each 0 to 1."""

    value: float
    low: float
    high: float


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
    leave_one_out: Literal["exact", "folds"] = Field(
        description="How images are judged by others: `exact`, each by all others; `folds`, with a "
        "sixteenth of the labeled images left out at a time, by a learned head that would take "
        "too long otherwise."
    )


class ReportRead(BaseModel):
    """How good a project is. Judged by leave-one-out: each image by all others."""

    encoder: UUID
    head: dict[str, Any] = Field(description="As the project asks for.")
    chosen: ChosenRead | None = Field(description="What that became; null with too few labels.")
    support: int = Field(description="Images with a label.")
    learned_images: int = Field(
        description="Of these, those that the encoder version learned from, or whose label the "
        "learned head learned from: leave-one-out says too much of them."
    )
    optimistic: str | None = Field(
        description="Why `accuracy` says more than new images will show; null where it does not."
    )
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
