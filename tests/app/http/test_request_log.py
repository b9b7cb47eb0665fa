"""What happens to every request: ids, keys, hosts, limits, repeated answers."""

import io
import json
import logging
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from app.http.idempotency import StoredResponses
from app.main import create_app
from app.sql.database import Database

KEY = {"Idempotency-Key": "one"}


@pytest.fixture
def locked(settings):
    """A service that has a key."""
    secret = settings.model_copy(update={"api_key": SecretStr("sesame")})
    with TestClient(create_app(secret), base_url="http://handful.example") as client:
        yield client


def test_every_answer_has_a_request_id_and_may_not_be_sniffed(service):
    for path in ("/livez", "/v1/projects", "/v1/projects/none", "/nowhere"):
        headers = service.get(path).headers

        assert uuid.UUID(headers["X-Request-ID"]).version == 7
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_requests_are_logged_as_json_with_their_id(service, monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(logging.getLogger().handlers[0], "stream", written)

    request_id = service.get("/v1/projects/none").headers["X-Request-ID"]

    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == request_id]
    assert (line["method"], line["path"], line["status"]) == ("GET", "/v1/projects/none", 404)


def test_an_error_of_ours_is_a_problem_with_the_id_to_report(service, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("a secret of ours")

    monkeypatch.setattr(type(service.app.state.parts.projects), "page", fail)

    answer = service.get("/v1/projects")

    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
    assert "secret" not in answer.text


@pytest.mark.parametrize("value", [None, "sesame", "Bearer wrong", "Bearer ", "Basic sesame"])
def test_without_the_key_nobody_gets_in(locked, value):
    headers = {"Authorization": value} if value else {}

    for path in ("/v1/projects", "/metrics", "/v1/version", "/nowhere"):
        answer = locked.get(path, headers=headers)

        assert answer.status_code == 401
        assert "Bearer KEY" in answer.json()["detail"]
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_with_the_key_all_is_open(locked):
    assert locked.get("/v1/projects", headers={"Authorization": "Bearer sesame"}).is_success


@pytest.mark.parametrize(
    "path", ["/livez", "/docs", "/openapi.json", "/docs/assets/swagger-ui.css"]
)
def test_health_and_documentation_need_no_key(locked, path):
    assert locked.get(path).is_success


def test_the_documentation_page_loads_nothing_from_elsewhere(service):
    page = service.get("/docs")

    assert "https://" not in page.text.replace("https://fastapi.tiangolo.com", "")
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert service.get("/docs/assets/swagger-ui-bundle.js").is_success


def test_a_name_that_was_pointed_here_is_not_served(service):
    answer = service.get("/v1/projects", headers={"Host": "evil.example"})

    assert answer.status_code == 403
    assert "HANDFUL_ALLOWED_HOSTS" in answer.json()["detail"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"])
def test_the_names_of_this_machine_are_served(service, host):
    assert service.get("/v1/projects", headers={"Host": host}).is_success


def test_pages_of_other_sites_may_not_change_anything(service):
    foreign = {"Origin": "https://evil.example"}

    assert service.post("/v1/projects", json={"name": "p"}, headers=foreign).status_code == 403
    own = {"Origin": "http://localhost"}
    assert service.post("/v1/projects", json={"name": "p"}, headers=own).status_code == 201


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_refused_declared_or_not(limited, declared):
    def chunks():
        for _ in range(300):
            yield b"x" * 1000

    answer = limited.post(
        "/v1/projects/birds/pool",
        content=b"x" * 300_000 if declared else chunks(),
        headers={"Content-Type": "application/zip"},
    )

    assert answer.status_code == 413
    assert "100000 bytes" in answer.json()["detail"]


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


def test_uploads_that_would_wait_too_long_for_a_thread_are_turned_away_unread(
    settings, png, monkeypatch
):
    app = create_app(settings.model_copy(update={"request_threads": 2}))
    embedder, gate, entered = app.state.parts.embedder, threading.Event(), threading.Semaphore(0)
    with TestClient(app, base_url="http://localhost") as client, ThreadPoolExecutor(2) as threads:
        client.post("/v1/projects", json={"name": "birds"})
        embed = embedder.embed

        def late(*args, **options):
            entered.release()
            assert gate.wait(20)
            return embed(*args, **options)

        def post(seed):
            image = {"content": png("red", seed), "headers": {"Content-Type": "image/png"}}
            return client.post("/v1/projects/birds/pool", **image)

        monkeypatch.setattr(embedder, "embed", late)
        monkeypatch.setattr(embedder, "is_too_late", lambda images: images > 2)
        waiting = [threads.submit(post, seed) for seed in range(2)]
        assert entered.acquire(timeout=10)
        assert entered.acquire(timeout=10)
        started = time.perf_counter()

        refused = post(3)

        assert time.perf_counter() - started < 1
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["type"] == "/problems/overloaded"
        assert "handful_rejected_images_total 1.0" in client.get("/metrics").text
        gate.set()
        assert [one.result().status_code for one in waiting] == [201, 201]
        monkeypatch.undo()
        assert post(4).status_code == 201
