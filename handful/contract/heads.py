"""Heads that jobs have learned."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from handful.contract.jobs import VerdictRead


class LearnedHeadRead(BaseModel):
    """A head that a job has learned; its weights never change."""

    id: UUID
    method: str = Field(description="By which it was learned.")
    options: dict[str, Any] = Field(description="Of the method.")
    encoder: UUID = Field(description="The version on whose embeddings it was learned.")
    job: UUID = Field(description="The job that made it.")
    current: bool = Field(description="Whether it serves the project.")
    metrics: VerdictRead = Field(description="How it was judged, beside what it was to replace.")
    created_at: datetime
