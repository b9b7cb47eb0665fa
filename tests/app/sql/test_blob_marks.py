"""Which files rows refer to, and which are marked to be removed."""

import pytest

from app.sql.blob_marks import in_use, remove_unused, unmark
from app.sql.tables import DoomedBlob, Image, Job, Project
from tests import databases

database_url = databases.each
IMAGE, CHECKPOINT, PREDICTIONS, ORPHAN = (digit * 64 for digit in "abcd")
WEIGHTS = "0" * 64  # of `make_version`


@pytest.fixture
def world(db, make_version):
    """A project with an image and a job that has files."""
    version = make_version(db)
    with db.writing() as session:
        project = Project(name="p", head={}, encoder_id=version)
        session.add(project)
        session.flush()
        session.add(
            Image(
                project_id=project.id, sha256=IMAGE, media_type="image/png", width=1, height=1,
                bytes=1, revision=1,
            )
        )  # fmt: skip
        job = Job(project_id=project.id, kind="transduce", options={}, fingerprint="f")
        job.checkpoint, job.predictions = CHECKPOINT, PREDICTIONS
        session.add(job)
    return db


def mark(db, digest: str, state: str) -> None:
    with db.writing() as session:
        session.add(DoomedBlob(sha256=digest, state=state, since=db.clock(session)))


def test_images_weights_checkpoints_and_predictions_are_in_use(world):
    files = {IMAGE, WEIGHTS, CHECKPOINT, PREDICTIONS}

    with world.reading() as session:
        assert in_use(session, files | {ORPHAN}) == files


def test_only_what_nothing_refers_to_is_removed_at_once(world):
    removed: list[str] = []

    for digest in (IMAGE, ORPHAN):
        remove_unused(world, digest, removed.append)

    assert removed == [ORPHAN]


@pytest.mark.parametrize(("state", "present"), [("marked", True), ("condemned", False),
                                                ("gone", False)])  # fmt: skip
def test_who_takes_a_mark_away_learns_whether_the_file_is_there(world, state, present):
    mark(world, ORPHAN, state)

    with world.writing() as session:
        assert unmark(session, [IMAGE, ORPHAN]) is present
    with world.writing() as session:
        assert unmark(session, [IMAGE, ORPHAN])  # it was stored again meanwhile
