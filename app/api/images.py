"""Images of a project: list, content, thumbnail, label, history."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from app.api import (
    ChoosingService,
    Cursor,
    ImageKey,
    LabelingService,
    Limit,
    Pairs,
    ProjectKey,
    after,
    page,
    problems,
)
from app.labeling import Change
from app.metadata import FilenamePart, Metadata, parse
from app.schemas import FailedRead, ImageRead, Page, Schema
from app.tables import NAME_LENGTH, Annotation

router = APIRouter(prefix="/v1/projects/{project}", tags=["images"])

Annotator = Annotated[str | None, Field(max_length=NAME_LENGTH, description="Who says so.")]
Source = Annotated[
    str, Field(min_length=1, max_length=50, description="Where it comes from, such as a tool.")
]
Replace = Annotated[
    bool, Field(description="Overrule another annotator's label; without it that answers 409.")
]
Side = Annotated[int, Query(ge=16, le=2048, description="Longest side, in pixels.")]


class LabelSet(Schema):
    """A label for one image."""

    label: str = Field(description="Name or id of a label that exists.")
    annotator: Annotator = None
    source: Source = "annotation"
    replace: Replace = False


class AnnotationWrite(Schema):
    """A label for one image of many; null sends it back to the pool."""

    image: UUID
    label: str | None
    annotator: Annotator = None
    source: Source = "annotation"
    replace: Replace = False


class AnnotationsWrite(Schema):
    """Many labels at once."""

    annotations: list[AnnotationWrite] = Field(min_length=1, max_length=10_000)


class MetadataSet(Schema):
    """The metadata of an image, instead of what it has."""

    metadata: Metadata


class MetadataWrite(MetadataSet):
    """The metadata of one image of many."""

    image: UUID


class ManyMetadataWrite(Schema):
    """The metadata of many images."""

    images: list[MetadataWrite] = Field(min_length=1, max_length=10_000)


class AppliedRead(BaseModel):
    """How many changes were made, and which were not."""

    applied: int
    failed: list[FailedRead]


class AnnotationRead(BaseModel):
    """One change of an image's label."""

    id: UUID
    label: str | None
    previous: str | None
    annotator: str | None
    source: str
    undone: bool = Field(description="Whether it was taken back.")
    created_at: datetime

    @classmethod
    def of(cls, annotation: Annotation) -> "AnnotationRead":
        return cls.model_validate(annotation, from_attributes=True)


class SimilarImage(BaseModel):
    """An image that looks alike."""

    image: UUID
    label: str | None
    cosine: float


class SimilarRead(BaseModel):
    """The closest images, most similar first."""

    images: list[SimilarImage]


@router.get("/images", responses=problems(404, 422))
def list_images(
    project: ProjectKey,
    labeling: LabelingService,
    state: Annotated[
        Literal["support", "pool"] | None, Query(description="With a label, or without one.")
    ] = None,
    label: Annotated[str | None, Query(description="Id or name of a label.")] = None,
    metadata: Pairs = (),
    filename: Annotated[FilenamePart | None, Query()] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[ImageRead]:
    """List images, oldest first."""
    rows = labeling.image_page(
        project,
        state=state,
        label=label,
        after=after(cursor),
        limit=limit + 1,
        metadata=parse(metadata),
        filename=filename,
    )
    return page(rows, limit, lambda view: view.image.id, ImageRead.of)


@router.get("/images/{image}", responses=problems(404, 422))
def read_image(project: ProjectKey, image: ImageKey, labeling: LabelingService) -> ImageRead:
    """Read what is known of an image."""
    return ImageRead.of(labeling.image(project, image))


@router.delete("/images/{image}", status_code=204, responses=problems(404, 422))
def delete_image(project: ProjectKey, image: ImageKey, labeling: LabelingService) -> None:
    """Delete an image, its embeddings and its history."""
    labeling.delete_image(project, image)


@router.put("/images/{image}/metadata", responses=problems(404, 422))
def set_metadata(
    project: ProjectKey, image: ImageKey, body: MetadataSet, labeling: LabelingService
) -> ImageRead:
    """Replace the metadata of an image."""
    for failed in labeling.set_metadata(project, [(image, body.metadata)]):
        raise failed.problem
    return ImageRead.of(labeling.image(project, image))


@router.post("/images/metadata", responses=problems(404, 422))
def set_many_metadata(
    project: ProjectKey, body: ManyMetadataWrite, labeling: LabelingService
) -> AppliedRead:
    """Replace the metadata of many images in one transaction; an unknown image fails alone."""
    failed = labeling.set_metadata(project, [(one.image, one.metadata) for one in body.images])
    return AppliedRead(
        applied=len(body.images) - len(failed), failed=[FailedRead.of(f) for f in failed]
    )


@router.get(
    "/images/{image}/content",
    response_class=Response,
    responses={
        200: {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}},
        **problems(404, 422),
    },
)
def read_content(
    project: ProjectKey, image: ImageKey, labeling: LabelingService, request: Request
) -> Response:
    """The file as it was uploaded."""
    view = labeling.image(project, image)
    tag = f'"{view.image.sha256}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=_forever(tag))
    content = labeling.content(view.image)
    return Response(content, media_type=view.image.media_type, headers=_forever(tag))


@router.get(
    "/images/{image}/thumbnail",
    response_class=Response,
    responses={
        200: {"content": {"image/webp": {"schema": {"type": "string", "format": "binary"}}}},
        **problems(404, 422),
    },
)
def read_thumbnail(
    project: ProjectKey,
    image: ImageKey,
    labeling: LabelingService,
    request: Request,
    side: Side = 256,
) -> Response:
    """The image upright, at most `side` pixels wide and high, without its metadata."""
    view = labeling.image(project, image)
    tag = f'"{view.image.sha256}-{side}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=_forever(tag))
    content = labeling.thumbnail(view.image, side)
    return Response(content, media_type="image/webp", headers=_forever(tag))


@router.get("/images/{image}/similar", responses=problems(404, 422))
def list_similar(
    project: ProjectKey,
    image: ImageKey,
    choosing: ChoosingService,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many.")] = 20,
) -> SimilarRead:
    """The images of the project that look most alike, by exact search; itself left out."""
    found = choosing.similar(project, image, limit)
    return SimilarRead(
        images=[SimilarImage(image=s.image_id, label=s.label, cosine=s.cosine) for s in found]
    )


@router.put("/images/{image}/label", responses=problems(404, 409, 422))
def set_label(
    project: ProjectKey, image: ImageKey, body: LabelSet, labeling: LabelingService
) -> ImageRead:
    """Give an image a label; it is a support image from now on.

    What another annotator said stays, and is told in the answer, unless `replace` is true.
    """
    change = Change(image, body.label, body.annotator, body.source, body.replace)
    return ImageRead.of(labeling.set_label(project, change))


@router.delete("/images/{image}/label", responses=problems(404, 422))
def remove_label(
    project: ProjectKey,
    image: ImageKey,
    labeling: LabelingService,
    annotator: Annotated[str | None, Query(max_length=NAME_LENGTH)] = None,
) -> ImageRead:
    """Take the label from an image; it goes back to the pool."""
    return ImageRead.of(labeling.set_label(project, Change(image, None, annotator, "annotation")))


@router.post("/images/{image}/label/undo", responses=problems(404, 409, 422))
def undo_label(
    project: ProjectKey,
    image: ImageKey,
    labeling: LabelingService,
    annotator: Annotated[str | None, Query(max_length=NAME_LENGTH)] = None,
) -> ImageRead:
    """Take back the last change of an image's label; again for the one before."""
    return ImageRead.of(labeling.undo(project, image, annotator))


@router.get("/images/{image}/annotations", responses=problems(404, 422))
def list_annotations(
    project: ProjectKey,
    image: ImageKey,
    labeling: LabelingService,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[AnnotationRead]:
    """The history of an image's label, newest first."""
    rows = labeling.history(project, image, after(cursor), limit + 1)
    return page(rows, limit, lambda annotation: annotation.id, AnnotationRead.of)


@router.post("/annotations", tags=["labels"], responses=problems(404, 422))
def annotate(project: ProjectKey, body: AnnotationsWrite, labeling: LabelingService) -> AppliedRead:
    """Set or take back many labels in one transaction; one that cannot be set fails alone."""
    changes = [Change(a.image, a.label, a.annotator, a.source, a.replace) for a in body.annotations]
    failed = labeling.annotate(project, changes)
    return AppliedRead(
        applied=len(changes) - len(failed), failed=[FailedRead.of(f) for f in failed]
    )


def _forever(tag: str) -> dict[str, str]:
    return {
        "ETag": tag,
        "Cache-Control": "private, max-age=31536000, immutable",
        "Content-Disposition": "inline",
    }
