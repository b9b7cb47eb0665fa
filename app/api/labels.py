"""Labels: the classes of a project, and the support images that define them."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from app.api import (
    Cursor,
    IfMatch,
    LabelingService,
    LabelKey,
    Limit,
    Pairs,
    ProjectKey,
    ProjectService,
    after,
    etag,
    page,
    problems,
    refuse_if_all_failed,
)
from app.metadata import parse
from app.projects import LabelView
from app.schemas import FailedRead, ImageRead, Page, Schema, StoredRead
from app.uploads import OPENAPI_BODY, Uploads

router = APIRouter(prefix="/v1/projects/{project}/labels", tags=["labels"])


class LabelRead(BaseModel):
    """A label and how many support images it has."""

    id: UUID
    name: str
    shots: int = Field(description="Support images.")
    created_at: datetime

    @classmethod
    def of(cls, view: LabelView) -> "LabelRead":
        label = view.label
        return cls(id=label.id, name=label.name, shots=view.shots, created_at=label.created_at)


class LabelWrite(Schema):
    """A label's name."""

    name: str = Field(description="Unique in the project; 1 to 200 characters, no slash.")


class SupportAdded(BaseModel):
    """The label after its support images came, and what became of each file."""

    label: LabelRead
    images: list[StoredRead]
    failed: list[FailedRead]


@router.post("", status_code=201, responses=problems(404, 409, 422))
def create_label(
    project: ProjectKey, body: LabelWrite, projects: ProjectService, response: Response
) -> LabelRead:
    """Create a label that has no support images yet."""
    view = projects.create_label(project, body.name)
    response.headers["Location"] = f"/v1/projects/{view.label.project_id}/labels/{view.label.id}"
    response.headers["ETag"] = etag(view.label.edition)
    return LabelRead.of(view)


@router.get("", responses=problems(404, 422))
def list_labels(
    project: ProjectKey, projects: ProjectService, limit: Limit = 100, cursor: Cursor = None
) -> Page[LabelRead]:
    """List labels, oldest first."""
    rows = projects.label_page(project, after(cursor), limit + 1)
    return page(rows, limit, lambda view: view.label.id, LabelRead.of)


@router.get("/{label}", responses=problems(404))
def read_label(
    project: ProjectKey, label: LabelKey, projects: ProjectService, response: Response
) -> LabelRead:
    """Read a label; its `ETag` serves `If-Match`."""
    view = projects.read_label(project, label)
    response.headers["ETag"] = etag(view.label.edition)
    return LabelRead.of(view)


@router.patch("/{label}", responses=problems(404, 409, 412, 422))
def rename_label(
    project: ProjectKey,
    label: LabelKey,
    body: LabelWrite,
    projects: ProjectService,
    edition: IfMatch,
    response: Response,
) -> LabelRead:
    """Rename a label; its support images stay."""
    view = projects.rename_label(project, label, body.name, edition)
    response.headers["ETag"] = etag(view.label.edition)
    return LabelRead.of(view)


@router.delete("/{label}", status_code=204, responses=problems(404, 412))
def delete_label(
    project: ProjectKey, label: LabelKey, projects: ProjectService, edition: IfMatch
) -> None:
    """Delete a label; its support images go back to the pool."""
    projects.delete_label(project, label, edition)


@router.post(
    "/{label}/support",
    status_code=201,
    responses=problems(404, 413, 415, 422, 429, 503),
    openapi_extra=OPENAPI_BODY,
)
def add_support(
    project: ProjectKey,
    label: LabelKey,
    uploads: Uploads,
    labeling: LabelingService,
    projects: ProjectService,
    existing: Annotated[
        Literal["relabel", "keep"],
        Query(description="What to do with an image that has another label already."),
    ] = "relabel",
    metadata: Pairs = (),
) -> SupportAdded:
    """Register support images of a label, creating the label if it is new."""
    added = labeling.add(project, uploads, label=label, existing=existing, metadata=parse(metadata))
    refuse_if_all_failed(added.failed, len(added.stored))
    return SupportAdded(
        label=LabelRead.of(projects.read_label(project, label)),
        images=[StoredRead.of(stored) for stored in added.stored],
        failed=[FailedRead.of(failed) for failed in added.failed],
    )


@router.get("/{label}/support", responses=problems(404, 422))
def list_support(
    project: ProjectKey,
    label: LabelKey,
    labeling: LabelingService,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[ImageRead]:
    """List the support images of a label."""
    rows = labeling.image_page(
        project, state=None, label=label, after=after(cursor), limit=limit + 1
    )
    return page(rows, limit, lambda view: view.image.id, ImageRead.of)
