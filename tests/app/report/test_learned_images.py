"""Images that what serves learned from."""

from uuid import uuid4

import pytest

from app.report.learned_images import count_learned_images, warn_of_learned
from app.sql.tables import Image, Job, Label, LearnedHead, TrainingImage
from handful.contract.jobs import JobState
from tests import databases

database_url = databases.each
COSINE = {"name": "cosine", "options": {}}


@pytest.fixture
def labels(db, project):
    """Two labels of two images each; the version learned from one image of the first."""
    with db.writing() as session:
        labels = [Label(project_id=project.id, name=name) for name in ("red", "blue")]
        session.add_all(labels)
        session.flush()
        images = [
            Image(
                project_id=project.id,
                label_id=labels[n // 2].id,
                sha256=f"{n}" * 64,
                media_type="image/png",
                width=1,
                height=1,
                bytes=1,
                revision=1,
            )
            for n in range(4)
        ]
        session.add_all(images)
        session.flush()
        session.add_all(
            TrainingImage(
                encoder_id=project.encoder_id, image_id=seen, label_id=labels[0].id, label="red",
                predicted=[],
            )
            for seen in (images[0].id, uuid4())
        )  # fmt: skip
    return labels


def add_head(db, project, learned_labels) -> dict:
    with db.writing() as session:
        job = Job(
            project_id=project.id, kind="metatrain", options={}, fingerprint="",
            state=JobState.SUCCEEDED,
        )  # fmt: skip
        session.add(job)
        session.flush()
        head = LearnedHead(
            project_id=project.id, encoder_id=project.encoder_id, job_id=job.id, method="feat",
            options={}, weights="0" * 64, metrics={"learned_labels": learned_labels},
        )  # fmt: skip
        session.add(head)
        session.flush()
        return {"name": "learned", "options": {"learned": str(head.id)}}


def count(db, project, head) -> int:
    with db.reading() as session:
        return count_learned_images(session, project.id, project.encoder_id, head)


def test_what_the_version_and_what_the_head_learned_counts_once(db, project, labels):
    red, blue = (str(label.id) for label in labels)
    assert count(db, project, COSINE) == 1
    assert count(db, project, add_head(db, project, [])) == 1
    assert count(db, project, add_head(db, project, [red])) == 2
    assert count(db, project, add_head(db, project, [blue, str(uuid4())])) == 3


def test_a_head_that_is_gone_learned_nothing(db, project, labels):
    gone = {"name": "learned", "options": {"learned": str(uuid4())}}

    assert count(db, project, gone) == 1


def test_a_warning_says_how_many():
    assert warn_of_learned(0, 9) is None
    assert "learned from 3 of the 9 labeled images" in str(warn_of_learned(3, 9))
