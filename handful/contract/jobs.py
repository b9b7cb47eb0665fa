"""Jobs in the background, and what happens to them."""

import enum
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field


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


class JobRead(BaseModel):
    """A task in the background."""

    id: UUID
    kind: str
    options: dict[str, Any]
    state: JobState
    attempt: int = Field(description="How often a worker took it.")
    cancel_requested: bool
    result: dict[str, Any] | None = Field(description="What came out, once it has succeeded.")
    error: str | None = Field(description="Why it failed, and what would help.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class EventRead(BaseModel):
    """Something that happened to a job."""

    number: int = Field(description="From 1, without gaps.")
    kind: Literal["state", "metrics", "message", "picture"]
    data: dict[str, Any]
    created_at: datetime


class EventsRead(BaseModel):
    """Events of a job, oldest first."""

    state: JobState = Field(description="Of the job, when the events were read.")
    items: list[EventRead]
