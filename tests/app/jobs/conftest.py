"""A job that was claimed, without a service around it; and how a service is asked for one."""

from collections.abc import Iterator

import pytest
import torch

from app.encoders.learned_heads import LearnedHeads
from app.encoders.promotion import Promotions
from app.encoders.versions import Versions
from app.jobs.context import JobContext
from app.jobs.job_queue import JobQueue
from app.sql.database import Database, migrate
from app.sql.tables import Project
from app.storage.blobs import Blobs

JOBS = "/v1/projects/birds/jobs"
MAX_PIXELS = 1 << 20


class Killed(BaseException):
    """The process ends here."""


def submit_job(service, kind, options):
    """Where the job is that a service was asked for."""
    answer = service.post(JOBS, json={"kind": kind, "options": options})
    assert answer.status_code == 202, answer.text
    return answer.headers["Location"]


@pytest.fixture
def birds_options() -> dict[str, object]:
    """A head that fits at once.

    A verdict fits the head hundreds of times; the default one tries many settings each time.
    """
    return {"head": {"name": "cosine"}}


@pytest.fixture
def context(tmp_path, make_version) -> Iterator[JobContext]:
    """The job of a project without images; a checkpoint is written after each step."""
    url = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    migrate(url)
    db, blobs = Database(url), Blobs(str(tmp_path / "blobs"))
    encoder = make_version(db)
    with db.writing() as session:
        session.add(Project(name="birds", head={}, encoder_id=encoder))
    queue = JobQueue(db)
    queue.enqueue("birds", "finetune", {}, "")
    claim = queue.claim()
    assert claim is not None
    yield JobContext(
        claim=claim,
        queue=queue,
        db=db,
        blobs=blobs,
        versions=Versions(db, blobs, torch.device("cpu")),
        learned_heads=LearnedHeads(db, blobs),
        promotions=Promotions(db, blobs, MAX_PIXELS),
        max_pixels=MAX_PIXELS,
        cache_bytes=1 << 20,
        decode_threads=1,
        checkpoint_s=0.0,
    )
    db.close()
