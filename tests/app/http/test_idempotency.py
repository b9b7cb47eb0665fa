"""A repeated POST does its work once, and answers as the first time."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from app.http.idempotency import StoredResponses
from app.main import create_app
from app.sql.database import Database

KEY = {"Idempotency-Key": "one"}


def test_a_repeated_post_answers_as_the_first_did(service):
    first = service.post("/v1/projects", json={"name": "p"}, headers=KEY)
    second = service.post("/v1/projects", json={"name": "p"}, headers=KEY)

    assert (first.status_code, second.status_code) == (201, 201)
    assert second.json() == first.json()
    assert second.headers["Idempotent-Replayed"] == "true"
    assert len(service.get("/v1/projects").json()["items"]) == 1


def test_a_repeated_upload_is_recognised_whatever_its_boundary(birds, png):
    answers = [
        birds.post(
            "/v1/projects/birds/pool",
            files=[("files", ("a.png", png("red"))), ("files", ("b.png", png("blue")))],
            headers=KEY,
        )
        for _ in range(2)
    ]

    assert answers[0].json() == answers[1].json()
    assert all(image["created"] for image in answers[1].json()["images"])


def test_a_key_with_another_body_is_refused(service):
    service.post("/v1/projects", json={"name": "p"}, headers=KEY)

    answer = service.post("/v1/projects", json={"name": "q"}, headers=KEY)

    assert answer.status_code == 422
    assert "another body" in answer.json()["detail"]


def test_a_key_belongs_to_one_address(birds):
    for label in ("a", "b"):
        birds.post("/v1/projects", json={"name": label}, headers=KEY)
    answer = birds.post("/v1/projects/birds/labels", json={"name": "a"}, headers=KEY)

    assert answer.status_code == 201


def test_refusals_are_repeated_too(birds):
    answers = [birds.post("/v1/projects", json={"name": "birds"}, headers=KEY) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [409, 409]
    assert answers[1].headers["Idempotent-Replayed"] == "true"


def test_while_the_first_runs_a_second_is_told_to_wait(birds, png, monkeypatch):
    entered, gate = threading.Event(), threading.Event()
    labeling = birds.app.state.parts.uploads
    add = type(labeling).add

    def slow(*arguments, **options):
        entered.set()
        assert gate.wait(20)
        return add(*arguments, **options)

    monkeypatch.setattr(type(labeling), "add", slow)

    def send():
        files = {"files": ("a.png", png("red"))}
        return birds.post("/v1/projects/birds/pool", files=files, headers=KEY)

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(send)
        assert entered.wait(10)
        second = send()
        gate.set()

        assert first.result().status_code == 201
    assert second.status_code == 409
    assert second.headers["Retry-After"] == "1"
    assert send().json() == first.result().json()


def test_what_failed_on_our_side_may_come_again(birds, png, monkeypatch):
    labeling = type(birds.app.state.parts.uploads)
    files = {"files": ("a.png", png("red"))}

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(labeling, "add", fail)
        assert birds.post("/v1/projects/birds/pool", files=files, headers=KEY).status_code == 500

    assert birds.post("/v1/projects/birds/pool", files=files, headers=KEY).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_that_is_too_short_or_long(service, key):
    answer = service.post("/v1/projects", json={"name": "p"}, headers={"Idempotency-Key": key})

    assert answer.status_code == 422
    assert "1 to 255 characters" in answer.json()["detail"]


def test_a_server_that_died_leaves_no_key_in_use(settings):
    app = create_app(settings)
    with TestClient(app, base_url="http://localhost"):
        pass
    db = Database(settings.database)
    StoredResponses(db, 24).claim("one", "/v1/projects?")
    db.close()

    with TestClient(create_app(settings), base_url="http://localhost") as client:
        assert client.post("/v1/projects", json={"name": "p"}, headers=KEY).status_code == 201
