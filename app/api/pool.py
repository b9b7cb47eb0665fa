"""The pool of unlabeled images, and what to label next."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import AwareDatetime, BaseModel, Field

from app.api import (
    ChoosingService,
    LabelingService,
    Pairs,
    ProjectKey,
    problems,
    refuse_if_all_failed,
)
from app.choices import choice
from app.choosing import Ranked, Wish
from app.metadata import FilenamePart, Wanted, parse
from app.schemas import FailedRead, Schema, StoredRead
from app.tables import NAME_LENGTH
from app.uploads import OPENAPI_BODY, Uploads
from models.acquisition.strategies import strategies

router = APIRouter(prefix="/v1/projects/{project}/pool", tags=["pool"])

Annotator = Annotated[
    str, Field(min_length=1, max_length=NAME_LENGTH, description="Who labels them.")
]


class PoolAdded(BaseModel):
    """What became of each file."""

    images: list[StoredRead]
    failed: list[FailedRead]


class PoolFilter(Schema):
    """Which images of the pool to choose from; all that is said must hold."""

    label: str | None = Field(default=None, description="Name of the label that is likeliest.")
    min_confidence: float = Field(
        default=0, ge=0, le=1, description="Least probability of the likeliest label."
    )
    max_confidence: float = Field(
        default=1, ge=0, le=1, description="Greatest probability of the likeliest label."
    )
    uploaded_after: AwareDatetime | None = None
    uploaded_before: AwareDatetime | None = None
    metadata: Wanted | None = None
    filename: FilenamePart | None = None
    images: list[UUID] | None = Field(
        default=None, max_length=10_000, description="Only these, as far as they are in the pool."
    )


class RankRequest(Schema):
    """How to rank, and how many images to return."""

    strategy: choice(strategies) = Field(default={"name": "adaptive"}, validate_default=True)  # type: ignore[valid-type]
    budget: int = Field(default=10, ge=1, le=10_000, description="How many images.")
    where: PoolFilter = PoolFilter()
    max_cosine: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Leave out what is closer than this to a labeled, reserved or chosen image.",
    )
    balanced: bool = Field(
        default=False, description="Prefer images that look like labels with few images."
    )

    def wish(self) -> Wish:
        strategy: Any = self.strategy
        return Wish(
            strategy.options,
            self.budget,
            max_cosine=self.max_cosine,
            balanced=self.balanced,
            **self.where.model_dump(),
        )


class NextRequest(RankRequest):
    """What to hand out, to whom, and for how long."""

    annotator: Annotator
    lease_s: float = Field(
        default=600, ge=1, le=86_400, description="Seconds until an image goes back to the pool."
    )


class SkipRequest(Schema):
    """Images that an annotator will not label."""

    annotator: Annotator
    images: list[UUID] = Field(min_length=1, max_length=1000)


class SkipRead(BaseModel):
    """How many images went back to the pool."""

    skipped: int = Field(description="Those that the annotator held.")


class SuggestionRead(BaseModel):
    """A label that the image may have."""

    label: str
    probability: float


class RankedRead(BaseModel):
    """An image worth labeling."""

    image: UUID
    label: str | None = Field(
        description="That it has; null but for `relabel`, which ranks labeled images."
    )
    score: float = Field(
        description="What made the strategy choose it; comparable within one answer at most."
    )
    propensity: float | None = Field(
        description="The probability with which it was drawn from the whole pool at random; "
        "null when the strategy chose it, and always with `where`, `max_cosine` or `balanced`."
    )
    suggestions: list[SuggestionRead] = Field(
        description="Up to three labels, likeliest first; empty before two labels have support. "
        "Of a labeled image, what the others say."
    )

    @classmethod
    def of(cls, ranked: Ranked) -> "RankedRead":
        return cls(
            image=ranked.image_id,
            label=ranked.label,
            score=ranked.score,
            propensity=ranked.propensity,
            suggestions=[SuggestionRead(**s._asdict()) for s in ranked.suggestions],
        )


class RankRead(BaseModel):
    """The images most worth labeling, best first."""

    encoder: UUID
    strategy: str
    images: list[RankedRead]


class NextRead(RankRead):
    """The images that the annotator holds now, the first to be labeled first."""

    lease_until: datetime


@router.post(
    "",
    status_code=201,
    responses=problems(404, 413, 415, 422, 429, 503),
    openapi_extra=OPENAPI_BODY,
)
def add_to_pool(
    project: ProjectKey, uploads: Uploads, labeling: LabelingService, metadata: Pairs = ()
) -> PoolAdded:
    """Add unlabeled images; one that the project has already keeps its label."""
    added = labeling.add(project, uploads, metadata=parse(metadata))
    refuse_if_all_failed(added.failed, len(added.stored))
    return PoolAdded(
        images=[StoredRead.of(stored) for stored in added.stored],
        failed=[FailedRead.of(failed) for failed in added.failed],
    )


@router.post("/rank", responses=problems(404, 409, 422))
def rank(project: ProjectKey, body: RankRequest, choosing: ChoosingService) -> RankRead:
    """Rank the pool by how useful a label would be; changes nothing.

    `relabel` ranks the labeled images instead, by how likely their label is wrong.
    """
    strategy: Any = body.strategy
    encoder, ranked = choosing.rank(project, body.wish())
    return RankRead(
        encoder=encoder, strategy=strategy.name, images=[RankedRead.of(r) for r in ranked]
    )


@router.post("/next", responses=problems(404, 409, 422))
def hand_out(project: ProjectKey, body: NextRequest, choosing: ChoosingService) -> NextRead:
    """Rank the pool and reserve the images for an annotator, whom nobody else shares them with.

    A label, a skip or the end of the lease ends it. `relabel` hands out labeled images, each once;
    the same label again confirms it, another one needs `replace` where someone else gave the first.
    """
    strategy: Any = body.strategy
    handed = choosing.next(
        project,
        body.wish(),
        annotator=body.annotator,
        lease_s=body.lease_s,
        name=strategy.name,
    )
    return NextRead(
        encoder=handed.encoder_id,
        strategy=strategy.name,
        images=[RankedRead.of(r) for r in handed.images],
        lease_until=handed.lease_until,
    )


@router.post("/skip", responses=problems(404, 422))
def skip(project: ProjectKey, body: SkipRequest, choosing: ChoosingService) -> SkipRead:
    """Give images back that an annotator holds; that annotator is not handed them again."""
    return SkipRead(skipped=choosing.skip(project, body.images, body.annotator))
