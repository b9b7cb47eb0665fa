"""Classification of query images."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from app.api import LabelingService, ProjectKey, problems, refuse_if_all_failed
from app.labeling import Prediction
from app.schemas import FailedRead
from app.uploads import OPENAPI_BODY, Uploads

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

    @classmethod
    def of(cls, prediction: Prediction) -> "PredictionRead":
        return cls(
            position=prediction.position,
            filename=prediction.filename,
            label=prediction.candidates[0].label,
            probability=prediction.candidates[0].probability,
            probabilities=[CandidateRead(**c._asdict()) for c in prediction.candidates],
            nearest=[
                NeighbourRead(image=n.image_id, label=n.label, cosine=n.cosine)
                for n in prediction.nearest
            ],
        )


class ClassifyRead(BaseModel):
    """A prediction for each image that could be decoded."""

    encoder: UUID = Field(description="The encoder version that embedded the images.")
    predictions: list[PredictionRead]
    failed: list[FailedRead]


@router.post(
    "/classify",
    responses=problems(404, 409, 413, 415, 422, 429, 503),
    openapi_extra=OPENAPI_BODY,
)
def classify(
    project: ProjectKey,
    uploads: Uploads,
    labeling: LabelingService,
    top_k: Annotated[int, Query(ge=1, le=1000, description="Labels to list per image.")] = 5,
    nearest: Annotated[int, Query(ge=0, le=100, description="Support images to list.")] = 3,
) -> ClassifyRead:
    """Classify images by their nearest class centroid."""
    answer = labeling.classify(project, uploads, top_k=top_k, nearest=nearest)
    refuse_if_all_failed(answer.failed, len(answer.predictions))
    return ClassifyRead(
        encoder=answer.encoder_id,
        predictions=[PredictionRead.of(prediction) for prediction in answer.predictions],
        failed=[FailedRead.of(failed) for failed in answer.failed],
    )
