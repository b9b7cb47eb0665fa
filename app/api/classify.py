"""Classification of query images."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from app.api import LabelingService, ProjectKey, problems, refuse_if_all_failed
from app.labeling import Prediction
from app.prediction import Asked
from app.schemas import FailedRead
from app.uploads import OPENAPI_BODY, HungUp, Uploads, take_turn

router = APIRouter(prefix="/v1/projects/{project}", tags=["classify"])


class CandidateRead(BaseModel):
    """A label that the image may have."""

    label: str
    probability: float
    cosine: float = Field(description="To the label's centroid, from -1 to 1.")


class NeighbourRead(BaseModel):
    """A support image that looks alike."""

    image: UUID
    label: str
    cosine: float


class PredictionRead(BaseModel):
    """What the project makes of one image."""

    position: int = Field(description="Which file of the request, from 0.")
    filename: str | None
    label: str = Field(description="The likeliest.")
    probability: float
    probabilities: list[CandidateRead] = Field(
        description="Likeliest first; over all labels of the project they sum to 1."
    )
    nearest: list[NeighbourRead]
    set: list[str] | None = Field(
        default=None, description="Labels, likeliest first, if `coverage` was asked for."
    )
    unknown: bool | None = Field(
        default=None,
        description="Whether it is of no label, if `false_rejection` was asked for: its score lies "
        "above the threshold.",
    )
    unknown_score: float | None = Field(
        default=None,
        description="How unlike all support images it is, in standard deviations of these.",
    )

    @classmethod
    def of(cls, prediction: Prediction) -> "PredictionRead":
        answer = prediction.answer
        return cls(
            position=prediction.position,
            filename=prediction.filename,
            label=answer.candidates[0].label,
            probability=answer.candidates[0].probability,
            probabilities=[CandidateRead(**c._asdict()) for c in answer.candidates],
            nearest=[
                NeighbourRead(image=n.image_id, label=n.label, cosine=n.cosine)
                for n in answer.nearest
            ],
            set=answer.label_set,
            unknown=answer.unknown,
            unknown_score=answer.unknown_score,
        )


class RejectionRead(BaseModel):
    """From where on an image is unknown."""

    threshold: float = Field(description="An `unknown_score` above it is unknown.")
    caught: float | None = Field(
        description="Share of images of other labels that would be called unknown, estimated by "
        "leaving out each label in turn; null with fewer than three labels or too few images."
    )


class BridgeRead(BaseModel):
    """How the queries got to the embeddings of the support images."""

    images: int = Field(description="That both encoder versions embedded; what it was fitted to.")
    cosine: float = Field(
        description="Of a mapped embedding to the image's own, on average over images left out."
    )


class ClassifyRead(BaseModel):
    """A prediction for each image that could be decoded."""

    encoder: UUID = Field(description="The encoder version that embedded the images.")
    bridge: BridgeRead | None = Field(
        default=None, description="If that is not the version of the project."
    )
    predictions: list[PredictionRead]
    rejection: RejectionRead | None = Field(
        default=None, description="If `false_rejection` was asked for."
    )
    failed: list[FailedRead]


@router.post(
    "/classify",
    dependencies=[Depends(take_turn)],
    responses=problems(404, 409, 413, 415, 422, 429, 503),
    openapi_extra=OPENAPI_BODY,
)
def classify(
    project: ProjectKey,
    uploads: Uploads,
    given_up: HungUp,
    labeling: LabelingService,
    top_k: Annotated[int, Query(ge=1, le=1000, description="Labels to list per image.")] = 5,
    nearest: Annotated[int, Query(ge=0, le=100, description="Support images to list.")] = 3,
    coverage: Annotated[
        float | None,
        Query(gt=0, lt=1, description="How often `set` is to contain the true label."),
    ] = None,
    false_rejection: Annotated[
        float | None,
        Query(gt=0, lt=1, description="How often an image of a label may be called `unknown`."),
    ] = None,
    query_encoder: Annotated[
        UUID | None,
        Query(
            description="Embed these images with another encoder version, a smaller one for "
            "instance, and map them to that of the project."
        ),
    ] = None,
) -> ClassifyRead:
    """Classify images by their nearest class centroid."""
    asked = Asked(top_k, nearest, coverage, false_rejection)
    answer = labeling.classify(project, uploads, asked, query_encoder, given_up)
    refuse_if_all_failed(answer.failed, len(answer.predictions))
    return ClassifyRead(
        encoder=answer.encoder_id,
        bridge=BridgeRead(images=answer.bridge.images, cosine=answer.bridge.cosine)
        if answer.bridge
        else None,
        predictions=[PredictionRead.of(prediction) for prediction in answer.predictions],
        rejection=RejectionRead(**answer.rejection._asdict()) if answer.rejection else None,
        failed=[FailedRead.of(failed) for failed in answer.failed],
    )
