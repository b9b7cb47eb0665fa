"""Images of a project: list, content, thumbnail, label, history."""

from typing import Annotated, Literal

from fastapi import Query, Request, Response

from app.api import resource_router
from app.api.answers import page, send_unchanging, show_failed, show_image
from app.api.parts import AnnotationService, ImageService, SimilarService
from app.http.openapi import file_responses, problem_responses
from app.http.parameters import Cursor, ImageKey, Limit, Pairs, ProjectKey, after
from app.labeling.annotations import Change
from app.labeling.metadata import parse, replace_metadata
from app.sql.tables import Annotation
from handful.contract.common import NAME_LENGTH, Page, Text
from handful.contract.images import (
    AnnotationRead,
    AnnotationsWrite,
    AppliedRead,
    ImageRead,
    LabelSet,
    ManyMetadataWrite,
    MetadataSet,
    SimilarImage,
    SimilarRead,
)
from handful.contract.metadata import FilenamePart

router = resource_router("/v1/projects/{project}", tags=["images"])
Side = Annotated[int, Query(ge=16, le=2048, description="Longest side, in pixels.")]


def show_annotation(annotation: Annotation) -> AnnotationRead:
    """A change of a label: what it was before, who made it, whether it was undone."""
    return AnnotationRead.model_validate(annotation, from_attributes=True)


@router.get("/images", responses=problem_responses(404, 422))
def list_images(
    project: ProjectKey,
    images: ImageService,
    state: Annotated[
        Literal["support", "pool"] | None, Query(description="With a label, or without one.")
    ] = None,
    label: Annotated[Text | None, Query(description="Id or name of a label.")] = None,
    metadata: Pairs = (),
    filename: Annotated[FilenamePart | None, Query()] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[ImageRead]:
    """List images, oldest first."""
    rows = images.page(
        project,
        state=state,
        label=label,
        after=after(cursor),
        limit=limit + 1,
        metadata=parse(metadata),
        filename=filename,
    )
    return page(rows, limit, lambda view: view.image.id, show_image)


@router.get("/images/{image}", responses=problem_responses(404, 422))
def read_image(project: ProjectKey, image: ImageKey, images: ImageService) -> ImageRead:
    """Read what is known of an image."""
    return show_image(images.read(project, image))


@router.delete("/images/{image}", status_code=204, responses=problem_responses(404, 422))
def delete_image(project: ProjectKey, image: ImageKey, images: ImageService) -> None:
    """Delete an image, its embeddings and its history."""
    images.delete(project, image)


@router.put("/images/{image}/metadata", responses=problem_responses(404, 422))
def set_metadata(
    project: ProjectKey, image: ImageKey, body: MetadataSet, images: ImageService
) -> ImageRead:
    """Replace the metadata of an image."""
    for failed in replace_metadata(images.db, project, [(image, body.metadata)]):
        raise failed.problem
    return show_image(images.read(project, image))


@router.post("/images/metadata", responses=problem_responses(404, 422))
def set_many_metadata(
    project: ProjectKey, body: ManyMetadataWrite, images: ImageService
) -> AppliedRead:
    """Replace the metadata of many images in one transaction; an unknown image fails alone."""
    metadata = [(row.image, row.metadata) for row in body.images]
    failed = replace_metadata(images.db, project, metadata)
    return AppliedRead(
        applied=len(body.images) - len(failed), failed=[show_failed(f) for f in failed]
    )


@router.get(
    "/images/{image}/content",
    response_class=Response,
    responses=file_responses("image/*", 404, 422),
)
def read_content(
    project: ProjectKey, image: ImageKey, images: ImageService, request: Request
) -> Response:
    """The file as it was uploaded."""
    file = images.read(project, image).image
    return send_unchanging(
        request, file.sha256, lambda: images.content(file), media_type=file.media_type
    )


@router.get(
    "/images/{image}/thumbnail",
    response_class=Response,
    responses=file_responses("image/webp", 404, 422),
)
def read_thumbnail(
    project: ProjectKey,
    image: ImageKey,
    images: ImageService,
    request: Request,
    side: Side = 256,
) -> Response:
    """The image upright, at most `side` pixels wide and high, without its metadata."""
    file = images.read(project, image).image
    return send_unchanging(
        request,
        f"{file.sha256}-{side}",
        lambda: images.thumbnail(file, side),
        media_type="image/webp",
    )


@router.get("/images/{image}/similar", responses=problem_responses(404, 422))
def list_similar(
    project: ProjectKey,
    image: ImageKey,
    similar: SimilarService,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many.")] = 20,
) -> SimilarRead:
    """The images of the project that look most alike, by exact search; itself left out."""
    neighbours = similar.find(project, image, limit)
    return SimilarRead(
        images=[SimilarImage(image=n.image_id, label=n.label, cosine=n.cosine) for n in neighbours]
    )


@router.put("/images/{image}/label", responses=problem_responses(404, 409, 422))
def set_label(
    project: ProjectKey, image: ImageKey, body: LabelSet, annotations: AnnotationService
) -> ImageRead:
    """Give an image a label; it is a support image from now on.

    What another annotator said stays, and is told in the answer, unless `replace` is true.
    """
    change = Change(image, body.label, body.annotator, body.source, body.replace)
    return show_image(annotations.set_label(project, change))


@router.delete("/images/{image}/label", responses=problem_responses(404, 422))
def remove_label(
    project: ProjectKey,
    image: ImageKey,
    annotations: AnnotationService,
    annotator: Annotated[Text | None, Query(max_length=NAME_LENGTH)] = None,
) -> ImageRead:
    """Take the label from an image; it goes back to the pool."""
    return show_image(annotations.set_label(project, Change(image, None, annotator, "annotation")))


@router.post("/images/{image}/label/undo", responses=problem_responses(404, 409, 422))
def undo_label(
    project: ProjectKey,
    image: ImageKey,
    annotations: AnnotationService,
    annotator: Annotated[Text | None, Query(max_length=NAME_LENGTH)] = None,
) -> ImageRead:
    """Take back the last change of an image's label; again for the one before."""
    return show_image(annotations.undo(project, image, annotator))


@router.get("/images/{image}/annotations", responses=problem_responses(404, 422))
def list_annotations(
    project: ProjectKey,
    image: ImageKey,
    annotations: AnnotationService,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[AnnotationRead]:
    """The history of an image's label, newest first."""
    rows = annotations.history(project, image, after(cursor), limit + 1)
    return page(rows, limit, lambda annotation: annotation.id, show_annotation)


@router.post("/annotations", tags=["labels"], responses=problem_responses(404, 422))
def annotate(
    project: ProjectKey, body: AnnotationsWrite, annotations: AnnotationService
) -> AppliedRead:
    """Set or take back many labels in one transaction; one that cannot be set fails alone."""
    changes = [Change(a.image, a.label, a.annotator, a.source, a.replace) for a in body.annotations]
    failed = annotations.annotate(project, changes)
    return AppliedRead(applied=len(changes) - len(failed), failed=[show_failed(f) for f in failed])
