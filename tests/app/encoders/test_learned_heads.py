"""Building heads: networks are kept while few are in use."""

from uuid import UUID

import pytest

from app.encoders import learned_heads
from app.encoders.learned_heads import LearnedHeads
from app.housekeeping.blob_check import check
from app.problems import HeadUnavailable
from app.sql.blob_marks import in_use
from app.sql.tables import Job, LearnedHead
from app.storage.blobs import Blobs
from models.heads.kinds.cosine import Cosine
from models.metalearning.learners.feat import Feat
from tests import databases

database_url = databases.each
DIM = 4  # of the version of the fixture


@pytest.fixture
def store(db, tmp_path):
    return LearnedHeads(db, Blobs(str(tmp_path / "blobs")))


@pytest.fixture
def add(db, store, project):
    def add(method: str = "feat") -> UUID:
        weights = store.store(Feat(width=2).network(DIM))
        with db.writing() as session:
            job = Job(project_id=project.id, kind="metatrain", options={}, fingerprint="")
            session.add(job)
            session.flush()
            head = LearnedHead(
                project_id=project.id,
                encoder_id=project.encoder_id,
                job_id=job.id,
                method=method,
                options={"width": 2},
                weights=weights,
                metrics={},
            )
            session.add(head)
        return head.id

    return add


def choice(head: UUID) -> dict:
    return {"name": "learned", "options": {"learned": str(head)}}


def test_a_head_in_closed_form_is_built_from_its_options(store):
    built = store.build({"name": "cosine", "options": {"temperature": 2.0}})

    assert built == Cosine(temperature=2.0)


def test_a_network_is_loaded_once_while_few_are_in_use(add, store, monkeypatch):
    monkeypatch.setattr(learned_heads, "MOST_NETWORKS", 2)
    first, second, third = add(), add(), add()

    one = store.build(choice(first)).network
    assert store.build(choice(first)).network is one
    assert not any(parameter.requires_grad for parameter in one.parameters())
    store.build(choice(second))
    store.build(choice(third))

    assert store.build(choice(first)).network is not one


def test_a_head_that_is_not_there_any_more_says_so(add, store, db):
    head, foreign = add(), add(method="fortune")
    with db.writing() as session:
        session.delete(session.get_one(LearnedHead, head))

    with pytest.raises(HeadUnavailable, match="was deleted"):
        store.build(choice(head))
    with pytest.raises(HeadUnavailable, match="'fortune'"):
        store.build(choice(foreign))


def test_its_file_is_in_use_and_missed(add, store, db):
    head = add()
    with db.reading() as session:
        weights = session.get_one(LearnedHead, head).weights
        assert in_use(session, [weights]) == {weights}
    assert not [problem for problem in check(db, store.blobs) if problem.sha256 == weights]

    store.blobs.remove(weights)

    (problem,) = [problem for problem in check(db, store.blobs) if problem.sha256 == weights]
    assert problem.problem == "missing"
    assert [(use.kind, use.id, use.project) for use in problem.uses] == [("head", str(head), "a")]
    assert "another head" in problem.advice
