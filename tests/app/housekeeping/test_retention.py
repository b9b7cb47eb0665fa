"""What only grows is forgotten in time, and what is needed is not."""

from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import func, select

from app.housekeeping import retention as module
from app.housekeeping.retention import Retention
from app.jobs.job_queue import JobQueue
from app.sql.tables import (
    Delivery,
    Embedding,
    Image,
    Job,
    Project,
    Removal,
    Reservation,
    StoredResponse,
    Webhook,
)
from app.vectors.matrices import GONE, Vectors
from handful.contract.jobs import JobState
from tests import databases

database_url = databases.each
OLD, YOUNG = timedelta(days=11), timedelta(days=9)


@pytest.fixture
def retention(db):
    return Retention(db, delivery_days=10, job_event_days=10, reservation_days=10, answer_hours=240)


@pytest.fixture
def clock(db):
    with db.reading() as session:
        return db.clock(session)


def add(db, *rows):
    with db.writing() as session:
        session.add_all(rows)
        session.flush()
        return [row.id for row in rows if hasattr(row, "id")]


def count(db, table) -> int:
    with db.reading() as session:
        return session.scalar(select(func.count()).select_from(table))


def image(project, n=0):
    return Image(
        project_id=project.id, sha256=f"{n:064}", media_type="image/png", width=1, height=1,
        bytes=1, revision=1,
    )  # fmt: skip


def test_messages_that_came_to_an_end_long_ago_are_forgotten(db, retention, project, clock):
    (hook,) = add(db, Webhook(project_id=project.id, url="http://x", events=[], secret="whsec_"))
    ages = (OLD, YOUNG, OLD)
    ids = add(
        db,
        *(Delivery(webhook_id=hook, event="e", body="{}", created_at=clock - age) for age in ages),
    )
    with db.writing() as session:
        for delivery_id in ids[:2]:
            session.get_one(Delivery, delivery_id).due_at = None

    assert retention.deliveries() == 1

    with db.reading() as session:
        assert set(session.scalars(select(Delivery.id))) == set(ids[1:])


def test_of_jobs_that_ended_long_ago_only_their_states_are_known(db, retention, project, clock):
    queue = JobQueue(db)
    for n in range(2):
        queue.enqueue("a", "finetune", {"n": n}, "")
    claims = [claim for claim in (queue.claim(), queue.claim()) if claim]
    for claim in claims:
        queue.record(claim, "picture", {"text": "", "url": "data:"})
        queue.keep_file(claim, "c" * 64)
        queue.finish(claim, JobState.FAILED)
    with db.writing() as session:
        session.get_one(Job, claims[0].job_id).finished_at = clock - OLD

    assert retention.job_events() == 1

    old, young = ([e.kind for e in queue.events(claim.job_id, 0)] for claim in claims)
    assert old == ["state", "state", "state"]
    assert young == ["state", "state", "picture", "state"]
    assert [queue.read("a", c.job_id).checkpoint for c in claims] == [None, "c" * 64]
    queue.retry("a", claims[0].job_id)  # numbers go on where they were
    assert [event.number for event in queue.events(claims[0].job_id, 0)] == [1, 2, 4, 5]


def test_images_that_were_handed_out_in_vain_are_forgotten(db, retention, project, clock):
    (image_id,) = add(db, image(project))
    ages = [("lapsed", OLD), (None, OLD), ("lapsed", YOUNG), ("skipped", OLD), ("labeled", OLD)]
    _, _, *expected = add(
        db,
        *(
            Reservation(
                project_id=project.id, image_id=image_id, annotator="ann", strategy="margin",
                lease_until=clock - age, outcome=outcome,
            )
            for outcome, age in ages
        ),
    )  # fmt: skip

    assert retention.reservations() == 2

    with db.reading() as session:
        assert set(session.scalars(select(Reservation.id))) == set(expected)


def test_answers_are_forgotten_a_portion_at_a_time(db, retention, clock, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", 2)
    add(db, *(StoredResponse(key=f"old {n}", created_at=clock - OLD) for n in range(5)))
    add(db, StoredResponse(key="young", created_at=clock - YOUNG))

    assert retention.answers() == 5
    assert count(db, StoredResponse) == 1


def test_caches_that_missed_a_removal_which_is_forgotten_read_all_anew(
    db, retention, project, monkeypatch
):
    monkeypatch.setattr(module, "REVISIONS", 3)
    ids = add(db, *(image(project, n) for n in range(3)))
    with db.writing() as session:
        session.add_all(
            Embedding(image_id=i, encoder_id=project.encoder_id, vector=np.ones(4, np.float16))
            for i in ids
        )
        session.get_one(Project, project.id).revision = 1
    behind, ahead = Vectors(db, 1 << 20), Vectors(db, 1 << 20)
    for vectors in behind, ahead:
        vectors.everything(project.id, project.encoder_id)
    for position, revision in enumerate((2, 6)):
        with db.writing() as session:
            session.get_one(Project, project.id).revision = revision
            session.add(Removal(image_id=ids[position], project_id=project.id, revision=revision))
            session.delete(session.get_one(Image, ids[position]))
        ahead.everything(project.id, project.encoder_id)

    assert retention.removals() == 1

    for vectors in behind, ahead:
        snapshot = vectors.everything(project.id, project.encoder_id)
        present = [bytes(i) for i, c in zip(snapshot.ids, snapshot.codes, strict=True) if c != GONE]
        assert present == [ids[2].bytes]
    with db.reading() as session:
        assert list(session.scalars(select(Removal.revision))) == [6]


def test_rows_of_what_grows_are_counted(db, retention, project):
    add(db, *(StoredResponse(key=str(n)) for n in range(3)))

    rows = retention.rows()

    assert rows["answers"] == 3
    assert rows["job_events"] == 0
