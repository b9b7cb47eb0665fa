"""A wall clock that is set harms nothing that is kept by the database's clock."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import select

from app.http.idempotency import KeyClaim, StoredResponses
from app.jobs.job_queue import JobQueue
from app.problems import KeyInUse
from app.sql import clock as module
from app.sql import tables
from app.sql.clock import clock
from app.sql.tables import Boot, Webhook
from app.webhooks.delivery import Deliverer
from app.webhooks.outbox import message
from tests import databases

database_url = databases.each
JUMPS = pytest.mark.parametrize("hours", [-30, 30])


@pytest.fixture
def jump(monkeypatch):
    """Sets the wall clock that the code reads, and begins as a process that was just started."""

    def set_clock(hours: float) -> None:
        class Moved(datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.now(tz) + timedelta(hours=hours)

        monkeypatch.setattr(tables, "datetime", Moved)
        monkeypatch.setattr(module, "_began_at", {})

    return set_clock


def read(db) -> datetime:
    with db.reading() as session:
        return clock(session)


@JUMPS
def test_the_clock_goes_on_when_the_wall_clock_is_set(db, jump, hours):
    with db.writing() as session:
        before = clock(session)

    jump(hours)

    assert timedelta(0) <= read(db) - before < timedelta(hours=1)


@databases.only_sqlite
def test_without_a_start_that_was_written_down_it_is_that_of_the_wall(db, jump):
    jump(30)

    moment = read(db)

    assert abs(moment - tables.now()) < timedelta(minutes=1)
    with db.reading() as session:
        assert not list(session.scalars(select(Boot)))  # a reader writes nothing


@databases.only_sqlite
def test_another_start_of_the_machine_takes_the_place_of_the_last(db, jump, monkeypatch):
    with db.writing() as session:
        clock(session)
    jump(30)
    monkeypatch.setattr(module, "_boot", lambda: "another")

    with db.writing() as session:
        clock(session)

    assert abs(read(db) - tables.now()) < timedelta(minutes=1)
    with db.reading() as session:
        assert list(session.scalars(select(Boot.id))) == ["another"]


@databases.only_sqlite
def test_where_the_system_tells_no_start_the_wall_clock_is_taken(db, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "BOOT_ID", tmp_path / "none")
    module._boot.cache_clear()

    with db.writing() as session:
        assert abs(clock(session) - tables.now()) < timedelta(minutes=1)

    module._boot.cache_clear()


@JUMPS
def test_a_running_job_stays_with_its_worker(db, project, jump, hours):
    queue = JobQueue(db, lease_s=30)
    queue.enqueue("a", "finetune", {}, "")
    claim = queue.claim()

    jump(hours)

    assert queue.claim() is None
    assert claim is not None
    assert queue.renew(claim) is False


@JUMPS
def test_a_job_that_waits_is_taken_up_in_its_turn(db, project, jump, hours):
    queue = JobQueue(db)
    first = queue.enqueue("a", "finetune", {"n": 1}, "")
    jump(hours)
    queue.enqueue("a", "finetune", {"n": 2}, "")

    claim = queue.claim()

    assert claim is not None
    assert claim.job_id == first.id


@JUMPS
def test_a_key_in_use_stays_in_use(db, jump, hours):
    answers = StoredResponses(db, 24)
    claim = answers.claim("key", "/address")

    jump(hours)

    with pytest.raises(KeyInUse):
        answers.claim("key", "/address")
    assert isinstance(claim, KeyClaim)
    answers.remember(claim, "fingerprint", 201, {}, b"{}")
    assert answers.claim("key", "/address")[0] == 201


@JUMPS
def test_a_message_is_due_at_once_whatever_the_clock_says(db, project, jump, hours):
    with db.writing() as session:
        hook = Webhook(project_id=project.id, url="http://x", events=[], secret="whsec_")
        session.add(hook)
        session.flush()
        clock(session)
    deliverer = Deliverer(db)
    jump(hours)
    with db.writing() as session:
        delivery = message(session, hook, "event", {})
        session.add(delivery)

    due = deliverer._claim()

    assert due is not None
    assert due.delivery_id == delivery.id
    jump(-hours)
    assert deliverer._claim() is None  # it is on its way
    with db.reading() as session:
        assert session.get_one(Webhook, hook.id).busy_until > read(db)
