"""Two requests that share rows, interleaved on purpose: neither fails, and nothing is mixed."""

import sqlite3

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm.exc import StaleDataError
from uuid_utils.compat import uuid7

from app.encoders import versions
from app.encoders.promotion import Promotions
from app.inference.embedder import Embedder
from app.labeling import annotations
from app.problems import DatabaseUnavailable
from app.sql.conflicts import CONFLICTS, is_conflict, retry_conflicts
from app.sql.outages import from_database
from app.sql.tables import Project
from tests import databases
from tests.interleavings import interleave
from tests.uploads import upload

database_url = databases.each
BIRDS = "/v1/projects/birds"


def refused(sqlstate):
    cause = type("Refused", (Exception,), {"sqlstate": sqlstate})("refused")
    return OperationalError("UPDATE", {}, cause)


FOREIGN_KEY = IntegrityError("INSERT", {}, sqlite3.IntegrityError("FOREIGN KEY constraint failed"))


@pytest.fixture
def images(birds, png):
    """Ids of images of a project that classifies: two labeled ones, and one in the pool."""
    upload(birds, "/labels/red/support", png("red"))
    upload(birds, "/labels/blue/support", png("blue"))
    upload(birds, "/pool", png("purple", 1))
    return [image["id"] for image in birds.get(f"{BIRDS}/images").json()["items"]]


@pytest.fixture
def locking(birds):
    """The database of the service, whose transactions lock."""
    return birds.app.state.parts.db


def set_red(service, image):
    return lambda: service.put(f"{BIRDS}/images/{image}/label", json={"label": "red"})


def test_a_label_is_set_while_a_webhook_that_would_hear_of_it_is_deleted(birds, images, locking):
    hook = birds.post(f"{BIRDS}/webhooks", json={"url": "http://nobody.invalid/"}).json()["id"]

    labeled, deleted = interleave(
        annotations,
        "tell",
        set_red(birds, images[2]),
        lambda: birds.delete(f"{BIRDS}/webhooks/{hook}"),
        locking=locking,
    )

    assert (labeled.status_code, deleted.status_code) == (200, 204)
    assert labeled.json()["label"] == "red"
    assert birds.get(f"{BIRDS}/webhooks").json()["items"] == []


@pytest.mark.parametrize("first", ["label", "promotion"])
def test_a_label_and_a_promotion_at_once_are_both_done(birds, images, do, locking, first):
    current = birds.get(BIRDS).json()["encoder"]["id"]
    weights = birds.get(f"{BIRDS}/encoders/{current}/weights").content
    version = birds.post(
        f"{BIRDS}/encoders", content=weights, headers={"Content-Type": "application/octet-stream"}
    ).json()["id"]
    birds.post(f"{BIRDS}/encoders/{version}/promote")
    do(birds)
    birds.post(f"{BIRDS}/encoders/{current}/promote")  # back, so that both have all vectors

    def promote():
        return birds.post(f"{BIRDS}/encoders/{version}/promote")

    label = set_red(birds, images[2])
    if first == "label":
        answers = interleave(annotations, "tell", label, promote, locking=locking)
    else:
        answers = interleave(Promotions, "move", promote, label, locking=locking)

    assert [answer.status_code for answer in answers] == [200, 200]
    assert birds.get(BIRDS).json()["encoder"]["id"] == version
    shots = {i["name"]: i["shots"] for i in birds.get(f"{BIRDS}/labels").json()["items"]}
    assert shots == {"red": 2, "blue": 1}
    ranked = birds.post(f"{BIRDS}/pool/rank", json={"strategy": {"name": "relabel"}}).json()
    assert ranked["encoder"] == version


def test_an_image_that_is_deleted_while_it_is_uploaded_again_is_there_in_the_end(
    birds, images, png
):
    uploaded, deleted = interleave(
        Embedder,
        "embed",
        lambda: upload(birds, "/pool", png("purple", 1)),
        lambda: birds.delete(f"{BIRDS}/images/{images[2]}"),
    )

    assert (uploaded.status_code, deleted.status_code) == (201, 204)
    (stored,) = uploaded.json()["images"]
    assert stored["created"]
    assert birds.get(f"{BIRDS}/images/{stored['id']}/content").content == png("purple", 1)
    assert len(birds.post(f"{BIRDS}/pool/rank", json={}).json()["images"]) == 1


@pytest.mark.parametrize(
    ("owner", "name", "send"),
    [
        (Embedder, "embed", lambda service, content, _: upload(service, "/pool", content)),
        (
            versions,
            "check_weights",
            lambda service, _, weights: service.post(
                f"{BIRDS}/encoders",
                content=weights,
                headers={"Content-Type": "application/octet-stream"},
            ),
        ),
    ],
    ids=["image", "version"],
)
def test_what_is_uploaded_to_a_project_that_is_deleted_meanwhile_finds_it_gone(
    birds, png, owner, name, send
):
    current = birds.get(BIRDS).json()["encoder"]["id"]
    weights = birds.get(f"{BIRDS}/encoders/{current}/weights").content

    uploaded, deleted = interleave(
        owner,
        name,
        lambda: send(birds, png("red", 9), weights),
        lambda: birds.delete(BIRDS),
    )

    assert (uploaded.status_code, deleted.status_code) == (404, 204)
    assert uploaded.json()["type"] == "/problems/project-not-found"


def test_a_label_that_is_renamed_while_images_are_classified_has_one_name_in_an_answer(
    birds, images, png
):
    def classify():
        files = [("files", png("red", n)) for n in range(2, 5)]
        answer = birds.post(f"{BIRDS}/classify", files=files)
        assert answer.status_code == 200, answer.text
        return [{c["label"] for c in i["probabilities"]} for i in answer.json()["predictions"]]

    classified, renamed = interleave(
        Embedder,
        "embed",
        classify,
        lambda: birds.patch(f"{BIRDS}/labels/red", json={"name": "scarlet"}),
    )

    assert renamed.status_code == 200
    assert classified == [{"red", "blue"}] * 3
    assert classify() == [{"scarlet", "blue"}] * 3


@pytest.mark.parametrize(
    "error", [*map(refused, sorted(CONFLICTS)), FOREIGN_KEY, StaleDataError("gone")], ids=str
)
def test_a_conflict_is_tried_again_once_and_then_is_an_answer_to_come_back(error):
    calls = []

    @retry_conflicts
    def change(failures):
        calls.append(failures)
        if len(calls) <= failures:
            raise error
        return "changed"

    assert change(1) == "changed"
    assert calls == [1, 1]
    calls.clear()
    with pytest.raises(type(error)):
        change(2)
    assert calls == [2, 2]
    problem = from_database(error)
    assert isinstance(problem, DatabaseUnavailable)
    assert problem.retry_after


def test_mistakes_are_not_tried_again():
    unique = IntegrityError("INSERT", {}, sqlite3.IntegrityError("UNIQUE constraint failed"))

    assert not is_conflict(unique)
    assert not is_conflict(refused("42703"))


def test_a_foreign_key_of_what_is_gone_is_a_conflict(db):
    with pytest.raises(IntegrityError) as raised, db.writing() as session:
        session.add(Project(name="birds", head={}, encoder_id=uuid7()))

    assert is_conflict(raised.value)
