"""Augmentations: look at what a policy makes of an image before training with it."""

from typing import Annotated
from uuid import UUID

from fastapi import Response
from pydantic import Field

from app.api import resource_router
from app.api.parts import AllParts
from app.http.openapi import file_responses
from app.http.parameters import ProjectKey
from app.jobs.planning.policies import DEFAULT, PerLabel, Policy
from app.jobs.planning.previews import augmentation_sheet
from handful.contract.common import Schema

router = resource_router("/v1/projects/{project}/augmentations", tags=["augmentations"])
MEDIA_TYPE = "image/png"


class PreviewRequest(Schema):
    """What to look at; `augmentation` and `per_class` are as in the job `finetune`."""

    image: UUID = Field(description="Of the project; where images mix, with others of it.")
    augmentation: Policy = Field(default=DEFAULT, validate_default=True)
    per_class: PerLabel = Field(default_factory=dict)
    count: int = Field(default=15, ge=1, le=35, description="Views, after the image itself.")
    side: Annotated[int, Field(ge=16, le=512)] | None = Field(
        default=None,
        description="Pixels of each view; null: as the encoder sees it, but at most 224.",
    )
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="Another one, other views.")


@router.post(
    "/preview",
    response_class=Response,
    responses=file_responses(MEDIA_TYPE, 404, 422),
)
def preview_augmentations(project: ProjectKey, body: PreviewRequest, parts: AllParts) -> Response:
    """A picture of an image as the encoder sees it, first, and of random views of it."""
    sheet = augmentation_sheet(
        parts.images,
        parts.embedder,
        project,
        body.image,
        body.augmentation,
        body.per_class,
        count=body.count,
        side=body.side,
        seed=body.seed,
    )
    return Response(sheet, media_type=MEDIA_TYPE)
