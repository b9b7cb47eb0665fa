"""Learned heads of a project: list, read, download, delete."""

from typing import Annotated
from uuid import UUID

from fastapi import Request, Response
from pydantic import Field

from app.api import resource_router
from app.api.answers import page, send_unchanging
from app.api.parts import HeadService
from app.encoders.learned_heads import HeadView
from app.http.openapi import file_responses, problem_responses
from app.http.parameters import Cursor, Limit, ProjectKey, after
from handful.contract.common import Page
from handful.contract.encoders import WEIGHTS_TYPE
from handful.contract.heads import LearnedHeadRead
from handful.contract.jobs import VerdictRead

router = resource_router("/v1/projects/{project}/heads", tags=["heads"])
HeadKey = Annotated[UUID, Field(description="Id of the learned head.")]


def show_head(view: HeadView) -> LearnedHeadRead:
    """A learned head as its project sees it."""
    head = view.head
    return LearnedHeadRead(
        id=head.id,
        method=head.method,
        options=head.options,
        encoder=head.encoder_id,
        job=head.job_id,
        current=view.current,
        metrics=VerdictRead.model_validate(head.metrics),
        created_at=head.created_at,
    )


@router.get("", responses=problem_responses(404, 422))
def list_heads(
    project: ProjectKey, learned: HeadService, limit: Limit = 100, cursor: Cursor = None
) -> Page[LearnedHeadRead]:
    """List the heads that jobs have learned, newest first.

    A project takes one with `{"head": {"name": "learned", "options": {"learned": id}}}`.
    """
    rows = learned.page(project, after(cursor), limit + 1)
    return page(rows, limit, lambda view: view.head.id, show_head)


@router.get("/{head}", responses=problem_responses(404, 422))
def read_head(project: ProjectKey, head: HeadKey, learned: HeadService) -> LearnedHeadRead:
    """Read what is known of a learned head."""
    return show_head(learned.read(project, head))


@router.get(
    "/{head}/weights",
    response_class=Response,
    responses=file_responses(WEIGHTS_TYPE, 404, 422),
)
def read_head_weights(
    project: ProjectKey, head: HeadKey, learned: HeadService, request: Request
) -> Response:
    """The weights as safetensors."""
    weights = learned.read(project, head).head.weights
    return send_unchanging(
        request,
        weights,
        lambda: learned.blobs.get(weights),
        media_type=WEIGHTS_TYPE,
        disposition=f'attachment; filename="{head}.safetensors"',
    )


@router.delete("/{head}", status_code=204, responses=problem_responses(404, 409, 422))
def delete_head(project: ProjectKey, head: HeadKey, learned: HeadService) -> None:
    """Delete a learned head that does not serve the project."""
    learned.delete(project, head)
