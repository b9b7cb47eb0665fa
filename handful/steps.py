"""What takes several requests, as generators that both clients drive, one with `await`.

Each yields what to do next, a request or a pause, and is sent what came of it; so that all but the
waiting is written once.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import httpx

from handful import calls
from handful.calls import Call, Existing, File, Metadata
from handful.contract.common import FailedRead, Page, StoredRead
from handful.contract.jobs import FINAL, EventRead, EventsRead, JobRead
from handful.contract.labels import SupportAdded
from handful.contract.pool import PoolAdded
from handful.retries import Attempts

FILES_PER_REQUEST = 64
ITEMS_PER_PAGE = 1000
POLL_S = 0.5  # between two looks for new events
Answer = TypeVar("Answer")
Progress = Callable[[int, int], None]  # images that are sent, and all
Listener = Callable[[EventRead], None]


class JobUnsuccessful(RuntimeError):
    """A job that was waited for did not succeed."""

    def __init__(self, job: JobRead) -> None:
        super().__init__(f"job {job.id} {job.state}" + (f": {job.error}" if job.error else ""))
        self.job = job


class AddedImages:
    """What became of files that were sent in several requests."""

    def __init__(self) -> None:
        self.images: list[StoredRead] = []
        self.failed: list[FailedRead] = []

    def note(self, start: int, images: Iterable[StoredRead], failed: Iterable[FailedRead]) -> None:
        """Take in the answer to one request, whose files begin at `start` of all."""
        self.images += [i.model_copy(update={"position": i.position + start}) for i in images]
        self.failed += [f.model_copy(update={"position": f.position + start}) for f in failed]


class Attempt(NamedTuple):
    """A request to send once; what came of it is a response, or an error of httpx."""

    method: str
    path: str
    arguments: dict[str, Any]  # of httpx


Step = Attempt | Call[Any] | float  # seconds to wait
Steps = Generator[Step, Any, Answer]


def request(attempts: Attempts, path: str, arguments: dict[str, Any]) -> Steps[httpx.Response]:
    """Send a request until it is answered."""
    headers = attempts.headers | arguments.get("headers", {})
    attempt = Attempt(attempts.method, path, {**arguments, "headers": headers})
    while True:
        outcome = yield attempt
        pause_s = attempts.pause_after(outcome)
        if pause_s is None:
            response: httpx.Response = outcome
            return response
        yield pause_s


def add_images(
    project: str,
    files: Sequence[File],
    *,
    label: str | None = None,
    existing: Existing = "relabel",
    metadata: Metadata | None = None,
    progress: Progress = lambda sent, total: None,
) -> Steps[AddedImages]:
    """Send any number of images: support of `label`, or without one to the pool."""
    added = AddedImages()
    for start in range(0, len(files), FILES_PER_REQUEST):
        portion = files[start : start + FILES_PER_REQUEST]
        answer: SupportAdded | PoolAdded
        if label is None:
            answer = yield calls.add_to_pool(project, portion, metadata=metadata)
        else:
            answer = yield calls.add_support(
                project, label, portion, existing=existing, metadata=metadata
            )
        added.note(start, answer.images, answer.failed)
        progress(start + len(portion), len(files))
    return added


def wait(project: str, job: UUID, told: Listener = lambda event: None) -> Steps[JobRead]:
    """Follow a job until it has succeeded.

    Args:
        told: hears of each event once.

    Raises:
        JobUnsuccessful: it failed or was cancelled.
    """
    last = 0
    while True:
        events: EventsRead = yield calls.job_events(project, job, after=last, limit=1000)
        for event in events.items:
            told(event)
            last = event.number
        if events.items:
            continue
        if events.state in FINAL:
            break
        yield POLL_S
    final: JobRead = yield calls.job(project, job)
    if final.state != "succeeded":
        raise JobUnsuccessful(final)
    return final


def next_query(query: dict[str, Any], page: Page[Any]) -> dict[str, Any] | None:
    """The arguments that ask for the page after one; None after the last."""
    return None if page.next_cursor is None else {**query, "cursor": page.next_cursor}
