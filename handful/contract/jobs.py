"""Jobs in the background, and what happens to them; the same fields for every kind of job.

A kind adds fields of its own to `Progress`, `JobResult` and `VerdictRead`; whoever shows a job does
without them.
"""

import enum
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator


class JobState(enum.StrEnum):
    """Where a job stands; the last three are final."""

    QUEUED = "queued"  # waits for a worker
    PREPARING = "preparing"  # a worker reads what it needs
    RUNNING = "running"  # a worker computes
    INTERRUPTED = "interrupted"  # its worker was lost; another goes on from the last checkpoint
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class Extensible(BaseModel):
    """Base of what kinds of jobs add fields to."""

    model_config = ConfigDict(extra="allow")


class Figure(BaseModel):
    """A number that tells how a job goes."""

    name: str
    value: float
    unit: str = Field(
        "", description="`share`: of 1, to be shown in percent; empty: a plain number."
    )


class Progress(Extensible):
    """How far a job is. What a kind tells besides is in further fields."""

    stage: str = ""
    share: float = Field(0.0, description="Of the stage that is done, 0..1.")
    title: str = Field("", description="What it does now, in a few words.")
    seconds_left: float | None = Field(None, description="Of the stage; null: not known.")
    figures: list[Figure] = Field([], description="The first is the one to draw as a curve.")


class StateChange(Extensible):
    """A job entered a state."""

    state: JobState
    attempt: int | None = Field(None, description="How often a worker has taken it now.")
    reason: str | None = Field(None, description="Why it was interrupted.")
    error: str | None = Field(None, description="Why it failed, and what would help.")


class Message(Extensible):
    """Something that a job has to say."""

    text: str


class Picture(Extensible):
    """Something that a job has to show."""

    text: str
    url: str = Field(description="A `data:` URL that holds all of it.")


class ComparisonRead(Extensible):
    """A candidate beside something that it would replace, on images that neither had seen."""

    better: bool
    probability: float = Field(description="That the candidate's accuracy is higher.")
    accuracy: float = Field(description="Of the candidate, 0..1.")
    before: float = Field(description="Of what it would replace, 0..1.")
    worst_recall_loss: float = Field(description="Of any label; negative when all gained.")
    reason: str


class VerdictRead(Extensible):
    """How a candidate was judged, beside all that it would replace."""

    better: bool = Field(False, description="Than all of them; false where nothing was judged.")
    reason: str = ""
    images: int = Field(0, description="Labeled images on which it was judged.")
    accuracy: float | None = Field(
        None, description="Of the candidate on images that it had not seen, 0..1."
    )
    against: dict[str, ComparisonRead] = {}

    @model_validator(mode="after")
    def _find_accuracy(self) -> "VerdictRead":
        """Verdicts of older services have the accuracy in each comparison alone."""
        if self.accuracy is None and self.against:
            self.accuracy = next(iter(self.against.values())).accuracy
        return self


class JobResult(Extensible):
    """What came out of a job. What its kind brings besides is in further fields."""

    summary: str = Field("", description="All of it, in a line.")
    verdict: VerdictRead | None = Field(None, description="Null: of a kind that is not judged.")

    @model_validator(mode="after")
    def _summarize(self) -> "JobResult":
        """Results of older services have no summary."""
        if not self.summary and self.verdict is not None:
            self.summary = self.verdict.reason
        return self


class JobRead(BaseModel):
    """A task in the background."""

    id: UUID
    kind: str
    options: dict[str, Any]
    state: JobState
    attempt: int = Field(description="How often a worker took it.")
    cancel_requested: bool
    result: JobResult | None = Field(description="What came out, once it has succeeded.")
    error: str | None = Field(description="Why it failed, and what would help.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class NumberedEvent(BaseModel):
    """Something that happened to a job."""

    number: int = Field(description="From 1, without gaps.")
    created_at: datetime


class StateEvent(NumberedEvent):
    """A job entered a state."""

    kind: Literal["state"]
    data: StateChange


class MetricsEvent(NumberedEvent):
    """A job got further."""

    kind: Literal["metrics"]
    data: Progress


class MessageEvent(NumberedEvent):
    """A job said something."""

    kind: Literal["message"]
    data: Message


class PictureEvent(NumberedEvent):
    """A job showed something."""

    kind: Literal["picture"]
    data: Picture


EventRead = Annotated[
    StateEvent | MetricsEvent | MessageEvent | PictureEvent, Field(discriminator="kind")
]


class EventsRead(BaseModel):
    """Events of a job, oldest first."""

    state: JobState = Field(description="Of the job, when the events were read.")
    items: list[EventRead]
