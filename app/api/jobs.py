"""Jobs: start, watch, cancel, try again."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

import anyio
import anyio.to_thread
from fastapi import Body, Header, Query, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.responses import StreamingResponse
from pydantic import Field, TypeAdapter

from app.api import resource_router
from app.api.answers import page, show_job
from app.api.parts import JobService, PromotionService, parts_of
from app.http.openapi import problem_responses
from app.http.parameters import Cursor, Limit, ProjectKey, after
from app.jobs.job_queue import JobQueue
from app.jobs.kinds import kinds, submit
from app.plugin_fields import plugin_field
from app.problems import PredictionsNotFound
from app.sql.tables import JobEvent
from handful.contract.common import Page
from handful.contract.jobs import FINAL, EventRead, EventsRead, JobRead

router = resource_router("/v1/projects/{project}/jobs", tags=["jobs"])
JobKey = Annotated[UUID, Field(description="Id of the job.")]
JobWrite: Any = Annotated[plugin_field(kinds, "kind"), Body()]
POLL_S = 0.25  # between two looks for new events
KEEP_ALIVE_S = 15.0  # between two signs of life, so that proxies do not close a quiet stream
EVENT_STREAM = "text/event-stream"
JSON_LINES = "application/x-ndjson"
PREDICTIONS = {
    "type": "string",
    "description": "Each line an object: `image`, its id; `label`; `probability` of that; "
    "`head_label`, what the project's head said.",
}


_events: TypeAdapter[EventRead] = TypeAdapter(EventRead)


def show_event(event: JobEvent) -> EventRead:
    """An event of a job, typed by its kind."""
    return _events.validate_python(event, from_attributes=True)


@router.post("", status_code=202, responses=problem_responses(404, 409, 422))
def start_job(
    project: ProjectKey,
    body: JobWrite,
    queue: JobService,
    response: Response,
) -> JobRead:
    """Start a job in the background; `Location` is where to look after it."""
    job = submit(queue, project, body.options)
    response.headers["Location"] = f"/v1/projects/{job.project_id}/jobs/{job.id}"
    return show_job(job)


@router.get("", responses=problem_responses(404, 422))
def list_jobs(
    project: ProjectKey, queue: JobService, limit: Limit = 100, cursor: Cursor = None
) -> Page[JobRead]:
    """List jobs, newest first."""
    rows = queue.page(project, after(cursor), limit + 1)
    return page(rows, limit, lambda job: job.id, show_job)


@router.get("/{job}", responses=problem_responses(404, 422))
def read_job(project: ProjectKey, job: JobKey, queue: JobService) -> JobRead:
    """Read where a job stands."""
    return show_job(queue.read(project, job))


@router.post("/{job}/cancel", responses=problem_responses(404, 409, 422))
def cancel_job(project: ProjectKey, job: JobKey, queue: JobService) -> JobRead:
    """Cancel a job: at once when it waits, within a second when it runs."""
    return show_job(queue.cancel(project, job))


@router.post("/{job}/retry", responses=problem_responses(404, 409, 422))
def retry_job(project: ProjectKey, job: JobKey, queue: JobService) -> JobRead:
    """Try a job again that failed or was cancelled; it goes on from its last checkpoint."""
    return show_job(queue.retry(project, job))


@router.get(
    "/{job}/predictions",
    response_class=StreamingResponse,
    responses={
        200: {"content": {JSON_LINES: {"schema": PREDICTIONS}}},
        **problem_responses(404, 409, 422),
    },
)
def read_predictions(
    project: ProjectKey,
    job: JobKey,
    queue: JobService,
    promotions: PromotionService,
    request: Request,
) -> Response:
    """What a job of the kind `transduce` made of the pool: an image a line, as JSON."""
    digest = queue.predictions(project, job)
    headers = {
        "ETag": f'"{digest}"',
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f'attachment; filename="{job}.jsonl"',
    }
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    try:
        parts = promotions.blobs.stream(digest)
    except FileNotFoundError as error:
        raise PredictionsNotFound(
            f"the predictions of job {job} are missing from the blob store; start another one"
        ) from error
    return StreamingResponse(parts, media_type=JSON_LINES, headers=headers)


@router.get(
    "/{job}/events",
    response_model=EventsRead,
    responses={
        200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}},
        204: {"description": "The stream has nothing more to tell: do not connect again."},
        **problem_responses(404, 422),
    },
)
async def read_events(
    project: ProjectKey,
    job: JobKey,
    queue: JobService,
    request: Request,
    after: Annotated[int, Query(ge=0, le=2**31 - 1, description="Number of the last one.")] = 0,
    limit: Limit = 1000,
    last_event_id: Annotated[
        int | None, Header(ge=0, le=2**31 - 1, description="As `after`, of a stream.")
    ] = None,
) -> Any:
    """The events of a job after a number; `Accept: text/event-stream` keeps telling new ones."""
    last = after if last_event_id is None else last_event_id
    if EVENT_STREAM not in request.headers.get("accept", ""):
        return await anyio.to_thread.run_sync(_read, queue, project, job, last, limit)
    first = await anyio.to_thread.run_sync(_read, queue, project, job, last, 1)
    if first.state in FINAL and not first.items:
        return Response(status_code=204)
    return StreamingResponse(
        _stream(request, queue, project, job, last),
        media_type=EVENT_STREAM,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


def _read(queue: JobQueue, project: str, job: UUID, last: int, limit: int) -> EventsRead:
    # The state first: when it is final, the events that follow are all there will be.
    state = queue.read(project, job).state
    return EventsRead(
        state=state, items=[show_event(event) for event in queue.events(job, last, limit)]
    )


async def _stream(
    request: Request, queue: JobQueue, project: str, job: UUID, last: int
) -> AsyncIterator[str]:
    """Events as they come, until the job has ended or the service stops."""
    quiet = 0.0
    while not parts_of(request).stopping():
        news = await anyio.to_thread.run_sync(_read, queue, project, job, last, 1000)
        for event in news.items:
            last, quiet = event.number, 0.0
            data = json.dumps(jsonable_encoder(event))
            yield f"id: {event.number}\nevent: {event.kind}\ndata: {data}\n\n"
        if news.state in FINAL and not news.items:
            return
        if not news.items:
            await anyio.sleep(POLL_S)
            quiet += POLL_S
        if quiet >= KEEP_ALIVE_S:
            quiet = 0.0
            yield ": still here\n\n"
