"""What several resources of the API send and receive."""

from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from app.labeling import Failed, ImageView, Stored
from app.tables import Job, JobState

Item = TypeVar("Item")


class Schema(BaseModel):
    """Base of request bodies: a misspelt field is an error, not a silence."""

    model_config = ConfigDict(extra="forbid")


class Page(BaseModel, Generic[Item]):
    """A part of a list; `next_cursor` asks for the rest."""

    items: list[Item]
    next_cursor: str | None = Field(description="Pass as `cursor` for the next page; null: end.")


class ProblemRead(BaseModel):
    """What went wrong (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["/problems/image-not-decodable"])
    title: str
    status: int
    detail: str


class FailedRead(BaseModel):
    """A file of the request that was refused; the others went through."""

    position: int = Field(description="Which file of the request, from 0.")
    filename: str | None
    problem: ProblemRead

    @classmethod
    def of(cls, failed: Failed) -> "FailedRead":
        return cls(
            position=failed.position,
            filename=failed.filename,
            problem=ProblemRead(**failed.problem.document()),
        )


class StoredRead(BaseModel):
    """An uploaded image that is in the project now."""

    position: int = Field(description="Which file of the request, from 0.")
    filename: str | None
    id: UUID
    sha256: str
    created: bool = Field(description="False when the project had this very file already.")
    label: str | None

    @classmethod
    def of(cls, stored: Stored) -> "StoredRead":
        return cls(
            position=stored.position,
            filename=stored.filename,
            id=stored.image_id,
            sha256=stored.sha256,
            created=stored.created,
            label=stored.label,
        )


class ImageRead(BaseModel):
    """An image of a project."""

    id: UUID
    sha256: str
    media_type: str
    width: int = Field(description="Pixels, of the upright image.")
    height: int
    bytes: int
    filename: str | None = Field(description="As the client called it.")
    label: str | None = Field(description="Null while the image is in the pool.")
    metadata: dict[str, str] = Field(description="What clients said of it: text by key.")
    created_at: datetime
    labeled_at: datetime | None

    @classmethod
    def of(cls, view: ImageView) -> "ImageRead":
        image = view.image
        return cls(
            id=image.id,
            sha256=image.sha256,
            media_type=image.media_type,
            width=image.width,
            height=image.height,
            bytes=image.bytes,
            filename=image.filename,
            label=view.label,
            metadata=image.metadata_,
            created_at=image.created_at,
            labeled_at=image.labeled_at,
        )


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

    @classmethod
    def of(cls, job: Job) -> "JobRead":
        return cls.model_validate(job, from_attributes=True)
