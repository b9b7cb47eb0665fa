"""The pool of unlabeled images, and what to label next."""

from typing import Any

from pydantic import Field

from app.api import resource_router
from app.api.answers import refuse_if_all_failed, show_failed, show_stored
from app.api.parts import RankerService, ReservationService, UploadService
from app.http.openapi import problem_responses
from app.http.parameters import Pairs, ProjectKey
from app.http.uploads import OPENAPI_BODY, UploadedFiles
from app.labeling.metadata import parse
from app.plugin_fields import plugin_field
from app.ranking.filters import RankQuery
from app.ranking.ranking import RankedImage
from handful.contract.common import Schema
from handful.contract.pool import (
    AnnotatorName,
    NextRead,
    PoolAdded,
    PoolFilter,
    RankedRead,
    RankRead,
    SkipRead,
    SkipRequest,
    SuggestionRead,
)
from models.acquisition.strategies import strategies

router = resource_router("/v1/projects/{project}/pool", tags=["pool"])


class RankRequest(Schema):
    """How to rank, and how many images to return."""

    strategy: plugin_field(strategies) = Field(default={"name": "adaptive"}, validate_default=True)  # type: ignore[valid-type]
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

    def query(self) -> RankQuery:
        """The same as the ranker takes it."""
        strategy: Any = self.strategy
        return RankQuery(
            strategy.options,
            self.budget,
            max_cosine=self.max_cosine,
            balanced=self.balanced,
            **self.where.model_dump(),
        )


class NextRequest(RankRequest):
    """What to hand out, to whom, and for how long."""

    annotator: AnnotatorName
    lease_s: float = Field(
        default=600, ge=1, le=86_400, description="Seconds until an image goes back to the pool."
    )


def show_ranked(ranked: RankedImage) -> RankedRead:
    """An image with its score and its likeliest labels."""
    return RankedRead(
        image=ranked.image_id,
        label=ranked.label,
        score=ranked.score,
        propensity=ranked.propensity,
        suggestions=[SuggestionRead(**s._asdict()) for s in ranked.suggestions],
    )


@router.post(
    "",
    status_code=201,
    responses=problem_responses(404, 413, 415, 422, 429, 503),
    openapi_extra=OPENAPI_BODY,
)
def add_images(
    project: ProjectKey, files: UploadedFiles, uploads: UploadService, metadata: Pairs = ()
) -> PoolAdded:
    """Add unlabeled images; one that the project has already keeps its label."""
    added = uploads.add(project, files, metadata=parse(metadata))
    refuse_if_all_failed(added.failed, len(added.stored))
    return PoolAdded(
        images=[show_stored(stored) for stored in added.stored],
        failed=[show_failed(failed) for failed in added.failed],
    )


@router.post("/rank", responses=problem_responses(404, 409, 422))
def rank(project: ProjectKey, body: RankRequest, ranker: RankerService) -> RankRead:
    """Rank the pool by how useful a label would be; changes nothing.

    `relabel` ranks the labeled images instead, by how likely their label is wrong.
    """
    strategy: Any = body.strategy
    encoder, ranked = ranker.rank(project, body.query())
    return RankRead(
        encoder=encoder, strategy=strategy.name, images=[show_ranked(r) for r in ranked]
    )


@router.post("/next", responses=problem_responses(404, 409, 422))
def hand_out(project: ProjectKey, body: NextRequest, reservations: ReservationService) -> NextRead:
    """Rank the pool and reserve the images for an annotator, whom nobody else shares them with.

    A label, a skip or the end of the lease ends it. `relabel` hands out labeled images, each once;
    the same label again confirms it, another one needs `replace` where someone else gave the first.
    """
    strategy: Any = body.strategy
    reserved = reservations.next(
        project,
        body.query(),
        annotator=body.annotator,
        lease_s=body.lease_s,
        name=strategy.name,
    )
    return NextRead(
        encoder=reserved.encoder_id,
        strategy=strategy.name,
        images=[show_ranked(r) for r in reserved.images],
        lease_until=reserved.lease_until,
    )


@router.post("/skip", responses=problem_responses(404, 422))
def skip(project: ProjectKey, body: SkipRequest, reservations: ReservationService) -> SkipRead:
    """Give images back that an annotator holds; that annotator is not handed them again."""
    return SkipRead(skipped=reservations.skip(project, body.images, body.annotator))
