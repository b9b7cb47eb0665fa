"""Classification of query images."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query

from app.api import resource_router
from app.api.answers import refuse_if_all_failed, show_failed
from app.api.parts import ClassificationService
from app.http.openapi import problem_responses
from app.http.parameters import ProjectKey
from app.http.uploads import OPENAPI_BODY, ClientDisconnected, UploadedFiles, limit_concurrency
from app.prediction.classify import Prediction
from app.prediction.predictor import ClassifyOptions
from handful.contract.classify import (
    BridgeRead,
    CandidateRead,
    ClassifyRead,
    NeighbourRead,
    PredictionRead,
    RejectionRead,
)

router = resource_router("/v1/projects/{project}", tags=["classify"])


def show_prediction(prediction: Prediction) -> PredictionRead:
    """A file of the request: its labels, likeliest first, and what else was asked for."""
    answer = prediction.answer
    return PredictionRead(
        position=prediction.position,
        filename=prediction.filename,
        label=answer.candidates[0].label,
        probability=answer.candidates[0].probability,
        probabilities=[CandidateRead(**c._asdict()) for c in answer.candidates],
        nearest=[
            NeighbourRead(image=n.image_id, label=n.label, cosine=n.cosine) for n in answer.nearest
        ],
        set=answer.label_set,
        unknown=answer.unknown,
        unknown_score=answer.unknown_score,
    )


@router.post(
    "/classify",
    dependencies=[Depends(limit_concurrency)],
    responses=problem_responses(404, 409, 413, 415, 422, 429, 503),
    openapi_extra=OPENAPI_BODY,
)
def classify_queries(
    project: ProjectKey,
    uploads: UploadedFiles,
    is_cancelled: ClientDisconnected,
    classification: ClassificationService,
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
    options = ClassifyOptions(top_k, nearest, coverage, false_rejection)
    answer = classification.classify(project, uploads, options, query_encoder, is_cancelled)
    refuse_if_all_failed(answer.failed, len(answer.predictions))
    return ClassifyRead(
        encoder=answer.encoder_id,
        bridge=BridgeRead(images=answer.bridge.images, cosine=answer.bridge.cosine)
        if answer.bridge
        else None,
        predictions=[show_prediction(prediction) for prediction in answer.predictions],
        rejection=RejectionRead(**answer.rejection._asdict()) if answer.rejection else None,
        failed=[show_failed(failed) for failed in answer.failed],
    )
