"""Encoder versions, and which one serves a project."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from handful.contract.jobs import JobRead, VerdictRead

WEIGHTS_TYPE = "application/octet-stream"


class VersionMetrics(VerdictRead):
    """How a version was judged when it was made; empty for one that was uploaded."""

    champion: UUID | None = Field(None, description="The version that served the project then.")


class VersionRead(BaseModel):
    """An encoder version: an architecture and weights that never change."""

    id: UUID
    name: str = Field(description="Of the architecture.")
    options: dict[str, Any]
    embedding_dim: int
    parent: UUID | None = Field(description="The version from which its training started.")
    job: UUID | None = Field(description="The job that made it.")
    current: bool = Field(description="Whether it serves the project.")
    images: int = Field(description="Labeled images that it learned from.")
    adapts: bool = Field(
        default=False,
        description="Whether it has learned steps, which `finetune` takes by the method `adapt`.",
    )
    metrics: VersionMetrics = Field(description="How it was judged, beside what it was to replace.")
    created_at: datetime


class TrainingImageRead(BaseModel):
    """A labeled image that a version learned from, as it was then."""

    image: UUID
    label: str = Field(description="Its name then.")
    label_id: UUID
    predicted: list[UUID] = Field(
        description="Labels that models of the same kind gave it without having seen it."
    )


class PromotionRead(BaseModel):
    """What a promotion did, or the job that is doing it."""

    promoted: bool = Field(description="Whether the version serves the project now.")
    job: JobRead | None = Field(description="Embeds the images that the version has not seen yet.")
