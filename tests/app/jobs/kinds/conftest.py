"""What tests of kinds of jobs ask of a service, and do to it."""

from uuid import UUID

import pytest
from sqlalchemy import select

from app.sql.tables import Image, Label
from tests.app.jobs.conftest import Killed


def events(service, location, kind="metrics"):
    items = service.get(f"{location}/events").json()["items"]
    return [event["data"] for event in items if event["kind"] == kind]


def versions(service):
    return service.get("/v1/projects/birds/encoders").json()["items"]


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
