"""Labels: the classes of a project, and the support images that define them."""

from typing import Annotated, Literal

from fastapi import Query, Response

from app.api import resource_router
from app.api.answers import page, refuse_if_all_failed, show_failed, show_image, show_stored
from app.api.parts import ImageService, LabelService, UploadService
from app.http.openapi import problem_responses
from app.http.parameters import Cursor, IfMatch, LabelKey, Limit, Pairs, ProjectKey, after, etag
from app.http.uploads import OPENAPI_BODY, UploadedFiles
from app.labeling.labels import LabelView
from app.labeling.metadata import parse
from handful.contract.common import Page
from handful.contract.images import ImageRead
from handful.contract.labels import LabelRead, LabelWrite, SupportAdded

router = resource_router("/v1/projects/{project}/labels", tags=["labels"])


def show_label(view: LabelView) -> LabelRead:
    """A label with the number of its support images."""
    label = view.label
    return LabelRead(id=label.id, name=label.name, shots=view.shots, created_at=label.created_at)


@router.post("", status_code=201, responses=problem_responses(404, 409, 422))
def create_label(
    project: ProjectKey, body: LabelWrite, labels: LabelService, response: Response
) -> LabelRead:
    """Create a label that has no support images yet."""
    view = labels.create(project, body.name)
    response.headers["Location"] = f"/v1/projects/{view.label.project_id}/labels/{view.label.id}"
    response.headers["ETag"] = etag(view.label.edition)
    return show_label(view)


@router.get("", responses=problem_responses(404, 422))
def list_labels(
    project: ProjectKey, labels: LabelService, limit: Limit = 100, cursor: Cursor = None
) -> Page[LabelRead]:
    """List labels, oldest first."""
    rows = labels.page(project, after(cursor), limit + 1)
    return page(rows, limit, lambda view: view.label.id, show_label)


@router.get("/{label}", responses=problem_responses(404))
def read_label(
    project: ProjectKey, label: LabelKey, labels: LabelService, response: Response
) -> LabelRead:
    """Read a label; its `ETag` serves `If-Match`."""
    view = labels.read(project, label)
    response.headers["ETag"] = etag(view.label.edition)
    return show_label(view)


@router.patch("/{label}", responses=problem_responses(404, 409, 412, 422))
def rename_label(
    project: ProjectKey,
    label: LabelKey,
    body: LabelWrite,
    labels: LabelService,
    edition: IfMatch,
    response: Response,
) -> LabelRead:
    """Rename a label; its support images stay."""
    view = labels.rename(project, label, body.name, edition)
    response.headers["ETag"] = etag(view.label.edition)
    return show_label(view)


@router.delete("/{label}", status_code=204, responses=problem_responses(404, 412))
def delete_label(
    project: ProjectKey, label: LabelKey, labels: LabelService, edition: IfMatch
) -> None:
    """Delete a label; its support images go back to the pool."""
    labels.delete(project, label, edition)


@router.post(
    "/{label}/support",
    status_code=201,
    responses=problem_responses(404, 413, 415, 422, 429, 503),
    openapi_extra=OPENAPI_BODY,
)
def add_support(
    project: ProjectKey,
    label: LabelKey,
    files: UploadedFiles,
    uploads: UploadService,
    labels: LabelService,
    existing: Annotated[
        Literal["relabel", "keep"],
        Query(description="What to do with an image that has another label already."),
    ] = "relabel",
    metadata: Pairs = (),
) -> SupportAdded:
    """Register support images of a label, creating the label if it is new."""
    added = uploads.add(project, files, label=label, existing=existing, metadata=parse(metadata))
    refuse_if_all_failed(added.failed, len(added.stored))
    return SupportAdded(
        label=show_label(labels.read(project, label)),
        images=[show_stored(stored) for stored in added.stored],
        failed=[show_failed(failed) for failed in added.failed],
    )


@router.get("/{label}/support", responses=problem_responses(404, 422))
def list_support(
    project: ProjectKey,
    label: LabelKey,
    images: ImageService,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[ImageRead]:
    """List the support images of a label."""
    rows = images.page(project, state=None, label=label, after=after(cursor), limit=limit + 1)
    return page(rows, limit, lambda view: view.image.id, show_image)
