"""Encoder versions of a project: list, promote, download, upload."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request, Response
from pydantic import Field

from app.api import resource_router
from app.api.answers import page, send_unchanging, show_job
from app.api.parts import JobService, ProjectService, PromotionService, parts_of
from app.encoders.promotion import VersionView
from app.http.openapi import FILE, file_responses, problem_responses
from app.http.parameters import Cursor, Limit, ProjectKey, after
from app.http.uploads import media_type_of, read_to_disk
from app.jobs.kinds import build, submit
from app.problems import UnsupportedMediaType
from app.sql.tables import TrainingImage
from handful.contract.common import Page
from handful.contract.encoders import (
    WEIGHTS_TYPE,
    PromotionRead,
    TrainingImageRead,
    VersionMetrics,
    VersionRead,
)

router = resource_router("/v1/projects/{project}/encoders", tags=["encoders"])
VersionKey = Annotated[UUID, Field(description="Id of the encoder version.")]


def show_version(view: VersionView) -> VersionRead:
    """A version as a project sees it."""
    version, owned = view.version, view.owned
    return VersionRead(
        id=version.id,
        name=version.architecture,
        options=version.options,
        embedding_dim=version.embedding_dim,
        parent=version.parent_id,
        job=owned.job_id if owned else None,
        current=view.current,
        images=view.images,
        adapts=version.learner is not None,
        metrics=VersionMetrics.model_validate(owned.metrics if owned else {}),
        created_at=version.created_at,
    )


def show_training_image(image: TrainingImage) -> TrainingImageRead:
    """A labeled image as it was when a version learned from it."""
    return TrainingImageRead(
        image=image.image_id,
        label=image.label,
        label_id=image.label_id,
        predicted=[UUID(label) for label in image.predicted],
    )


async def _read_weights(request: Request) -> AsyncIterator[Path]:
    """The body, if it says that it is weights; it is not read otherwise."""
    media_type = media_type_of(request)
    if media_type != WEIGHTS_TYPE:
        raise UnsupportedMediaType(
            f"send the file as {WEIGHTS_TYPE}, not as {media_type or 'nothing'}"
        )
    async for file in read_to_disk(request):
        yield file


Weights = Annotated[Path, Depends(_read_weights)]


@router.get("", responses=problem_responses(404, 422))
def list_versions(
    project: ProjectKey, promotions: PromotionService, limit: Limit = 100, cursor: Cursor = None
) -> Page[VersionRead]:
    """List the versions that the project can use, newest first."""
    rows = promotions.versions(project, after(cursor), limit + 1)
    return page(rows, limit, lambda view: view.version.id, show_version)


@router.get("/{version}", responses=problem_responses(404, 422))
def read_version(
    project: ProjectKey, version: VersionKey, promotions: PromotionService
) -> VersionRead:
    """Read what is known of a version."""
    return show_version(promotions.version(project, version))


@router.get("/{version}/images", responses=problem_responses(404, 422))
def list_training_images(
    project: ProjectKey,
    version: VersionKey,
    promotions: PromotionService,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[TrainingImageRead]:
    """List the labeled images that a version learned from."""
    rows = promotions.training_images(project, version, after(cursor), limit + 1)
    return page(rows, limit, lambda image: image.image_id, show_training_image)


@router.post(
    "/{version}/promote",
    responses={202: {"model": PromotionRead}, **problem_responses(404, 409, 422)},
)
def promote_version(
    project: ProjectKey,
    version: VersionKey,
    promotions: PromotionService,
    queue: JobService,
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
    return PromotionRead(promoted=False, job=show_job(job))


@router.get(
    "/{version}/weights",
    response_class=Response,
    responses=file_responses(WEIGHTS_TYPE, 404, 422),
)
def read_weights(
    project: ProjectKey, version: VersionKey, promotions: PromotionService, request: Request
) -> Response:
    """The weights as safetensors."""
    weights = promotions.version(project, version).version.weights
    return send_unchanging(
        request,
        weights,
        lambda: promotions.blobs.get(weights),
        media_type=WEIGHTS_TYPE,
        disposition=f'attachment; filename="{version}.safetensors"',
    )


@router.post(
    "",
    status_code=201,
    responses=problem_responses(404, 413, 415, 422),
    openapi_extra={"requestBody": {"required": True, "content": {WEIGHTS_TYPE: FILE}}},
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
    view = projects.read(project)
    parent = promotions.version(project, like or view.encoder.id).version
    version = parts_of(request).versions.upload(view.project.id, parent.id, weights)
    response.headers["Location"] = f"/v1/projects/{view.project.id}/encoders/{version}"
    return show_version(promotions.version(project, version))
