"""Encoder versions of a project: list, promote, download, upload."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from app.api import (
    Cursor,
    JobQueue,
    Limit,
    ProjectKey,
    ProjectService,
    PromotionService,
    after,
    page,
    problems,
)
from app.jobs import build, submit
from app.problems import UnsupportedMediaType
from app.promotion import VersionView
from app.schemas import JobRead, Page
from app.tables import TrainingImage
from app.versions import Versions

router = APIRouter(prefix="/v1/projects/{project}/encoders", tags=["encoders"])

VersionKey = Annotated[UUID, Field(description="Id of the encoder version.")]
WEIGHTS = {"schema": {"type": "string", "format": "binary"}}
MEDIA_TYPE = "application/octet-stream"


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
    metrics: dict[str, Any] = Field(description="How it was judged, beside what it was to replace.")
    created_at: datetime

    @classmethod
    def of(cls, view: VersionView) -> "VersionRead":
        version, owned = view.version, view.owned
        return cls(
            id=version.id,
            name=version.architecture,
            options=version.options,
            embedding_dim=version.embedding_dim,
            parent=version.parent_id,
            job=owned.job_id if owned else None,
            current=view.current,
            images=view.images,
            metrics=owned.metrics if owned else {},
            created_at=version.created_at,
        )


class TrainingImageRead(BaseModel):
    """A labeled image that a version learned from, as it was then."""

    image: UUID
    label: str = Field(description="Its name then.")
    label_id: UUID
    predicted: list[UUID] = Field(
        description="Labels that models of the same kind gave it without having seen it."
    )

    @classmethod
    def of(cls, image: TrainingImage) -> "TrainingImageRead":
        return cls(
            image=image.image_id,
            label=image.label,
            label_id=image.label_id,
            predicted=[UUID(label) for label in image.predicted],
        )


class PromotionRead(BaseModel):
    """What a promotion did, or the job that is doing it."""

    promoted: bool = Field(description="Whether the version serves the project now.")
    job: JobRead | None = Field(description="Embeds the images that the version has not seen yet.")


async def _body(request: Request) -> bytes:
    return await request.body()


Weights = Annotated[bytes, Depends(_body)]


@router.get("", responses=problems(404, 422))
def list_versions(
    project: ProjectKey, promotions: PromotionService, limit: Limit = 100, cursor: Cursor = None
) -> Page[VersionRead]:
    """List the versions that the project can use, newest first."""
    rows = promotions.versions(project, after(cursor), limit + 1)
    return page(rows, limit, lambda view: view.version.id, VersionRead.of)


@router.get("/{version}", responses=problems(404, 422))
def read_version(
    project: ProjectKey, version: VersionKey, promotions: PromotionService
) -> VersionRead:
    """Read what is known of a version."""
    return VersionRead.of(promotions.version(project, version))


@router.get("/{version}/images", responses=problems(404, 422))
def list_training_images(
    project: ProjectKey,
    version: VersionKey,
    promotions: PromotionService,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[TrainingImageRead]:
    """List the labeled images that a version learned from."""
    rows = promotions.training_images(project, version, after(cursor), limit + 1)
    return page(rows, limit, lambda image: image.image_id, TrainingImageRead.of)


@router.post(
    "/{version}/promote",
    responses={202: {"model": PromotionRead}, **problems(404, 409, 422)},
)
def promote_version(
    project: ProjectKey,
    version: VersionKey,
    promotions: PromotionService,
    queue: JobQueue,
    response: Response,
) -> PromotionRead:
    """Let a version serve the project; promoting the one before it is the rollback.

    At once when it has embedded every image; else a job embeds the others first (202), while the
    old version serves.
    """
    if promotions.move_if_ready(project, version):
        return PromotionRead(promoted=True, job=None)
    job = submit(queue, project, build("promote", {"version": str(version)}))
    response.status_code = 202
    response.headers["Location"] = f"/v1/projects/{job.project_id}/jobs/{job.id}"
    return PromotionRead(promoted=False, job=JobRead.of(job))


@router.get(
    "/{version}/weights",
    response_class=Response,
    responses={200: {"content": {MEDIA_TYPE: WEIGHTS}}, **problems(404, 422)},
)
def read_weights(
    project: ProjectKey, version: VersionKey, promotions: PromotionService, request: Request
) -> Response:
    """The weights as safetensors."""
    weights = promotions.version(project, version).version.weights
    tag = f'"{weights}"'
    headers = {
        "ETag": tag,
        "Cache-Control": "private, max-age=31536000, immutable",
        "Content-Disposition": f'attachment; filename="{version}.safetensors"',
    }
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(promotions.blobs.get(weights), media_type=MEDIA_TYPE, headers=headers)


@router.post(
    "",
    status_code=201,
    responses=problems(404, 413, 415, 422),
    openapi_extra={"requestBody": {"required": True, "content": {MEDIA_TYPE: WEIGHTS}}},
)
def upload_version(
    project: ProjectKey,
    weights: Weights,
    promotions: PromotionService,
    projects: ProjectService,
    request: Request,
    response: Response,
    like: Annotated[
        UUID | None, Query(description="Version of the same architecture; the current one if none.")
    ] = None,
) -> VersionRead:
    """Upload weights, as safetensors, for the architecture of a version that is known."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != MEDIA_TYPE:
        raise UnsupportedMediaType(f"send the file as {MEDIA_TYPE}, not as {given or 'nothing'}")
    view = projects.read(project)
    parent = promotions.version(project, like or view.encoder.id).version
    versions: Versions = request.app.state.versions
    version = versions.upload(view.project.id, parent.id, weights)
    response.headers["Location"] = f"/v1/projects/{view.project.id}/encoders/{version}"
    return VersionRead.of(promotions.version(project, version))
