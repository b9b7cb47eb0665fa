"""What tests of kinds of jobs ask of a service, and do to it."""

import io
from typing import NamedTuple
from uuid import UUID

import pytest
from rich.console import Console
from rich.progress import Progress
from sqlalchemy import select

from app.cli import terminal
from app.sql.tables import Image, Label
from handful.contract.jobs import EventsRead
from tests.app.jobs.conftest import Killed


def events(service, location, kind="metrics"):
    items = service.get(f"{location}/events").json()["items"]
    return [event["data"] for event in items if event["kind"] == kind]


def versions(service):
    return service.get("/v1/projects/birds/encoders").json()["items"]


def losses_and_weights(service, location):
    """What a job that succeeded told of its losses, and the weights of its version."""
    job = service.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    weights = f"/v1/projects/birds/encoders/{job['result']['version']}/weights"
    losses = [data["loss"] for data in events(service, location)]
    return losses, service.get(weights).raise_for_status().content


class Line(NamedTuple):
    """What a terminal shows of a job at a time."""

    title: str
    share: float
    note: str


def terminal_lines(service, location):
    """What a terminal shows after each event that tells how far a job is."""
    bar = Progress(console=Console(file=io.StringIO()))
    number = bar.add_task("queued", total=1.0, note="")
    (task,), lines = bar.tasks, []
    for event in EventsRead.model_validate(service.get(f"{location}/events").json()).items:
        terminal._show(bar, number, event)
        if event.kind == "metrics":
            lines.append(Line(task.description, task.completed, task.fields["note"]))
    return lines


def interrupt(service, do, location, owner, name, after=0):
    """Do a job until a function was called so often, and let its lease run out."""
    function, calls = getattr(owner, name), iter(range(after))

    def until_killed(*arguments, **options):
        if next(calls, None) is None:
            raise Killed
        return function(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, until_killed)
        with pytest.raises(Killed):
            do(service)
    queue = service.app.state.parts.queue
    with queue.db.writing() as session:
        job = queue.read("birds", UUID(location.rpartition("/")[2]))
        session.merge(job).lease_until = job.created_at


def lose_files(service, count, label=None):
    """Remove the files of some images."""
    parts, query = service.app.state.parts, select(Image.sha256)
    if label is not None:
        query = query.join(Label, Label.id == Image.label_id).where(Label.name == label)
    with parts.queue.db.reading() as session:
        digests = list(session.scalars(query.limit(count)))
    for digest in digests:
        parts.promotions.blobs.remove(digest)
