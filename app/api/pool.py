"""The pool of unlabeled images, and what to label next."""

from typing import Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.api import LabelingService, ProjectKey, problems, refuse_if_all_failed
from app.choices import choice
from app.schemas import FailedRead, Schema, StoredRead
from app.uploads import OPENAPI_BODY, Uploads
from models.acquisition import strategies

router = APIRouter(prefix="/v1/projects/{project}/pool", tags=["pool"])


class PoolAdded(BaseModel):
    """What became of each file."""

    images: list[StoredRead]
    failed: list[FailedRead]


class RankRequest(Schema):
    """How to rank, and how many images to return."""

    strategy: choice(strategies) = Field(default={"name": "margin"}, validate_default=True)  # type: ignore[valid-type]
    budget: int = Field(default=10, ge=1, le=10_000, description="How many images.")


class RankedRead(BaseModel):
    """An image worth labeling."""

    image: UUID
    score: float = Field(description="Higher means sooner; comparable within one answer only.")


class RankRead(BaseModel):
    """The images most worth labeling, best first."""

    encoder: UUID
    strategy: str
    images: list[RankedRead]


@router.post(
    "",
    status_code=201,
    responses=problems(404, 413, 415, 422, 429, 503),
    openapi_extra=OPENAPI_BODY,
)
def add_to_pool(project: ProjectKey, uploads: Uploads, labeling: LabelingService) -> PoolAdded:
    """Add unlabeled images; one that the project has already keeps its label."""
    added = labeling.add(project, uploads)
    refuse_if_all_failed(added.failed, len(added.stored))
    return PoolAdded(
        images=[StoredRead.of(stored) for stored in added.stored],
        failed=[FailedRead.of(failed) for failed in added.failed],
    )


@router.post("/rank", responses=problems(404, 409, 422))
def rank(project: ProjectKey, body: RankRequest, labeling: LabelingService) -> RankRead:
    """Rank the pool by how useful a label would be; changes nothing."""
    strategy: Any = body.strategy
    encoder, ranked = labeling.rank(project, strategy.options, body.budget)
    return RankRead(
        encoder=encoder,
        strategy=strategy.name,
        images=[RankedRead(image=r.image_id, score=r.score) for r in ranked],
    )
