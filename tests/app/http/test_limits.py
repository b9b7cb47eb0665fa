"""Uploads that would wait too long, and bodies that are too large, are turned away."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest
from fastapi.testclient import TestClient

from app.http.limits import JSON_BODY_BYTES, JSON_VALUES, LOOP_BYTES, BodyLimit, Door, LoopDelay
from app.main import create_app
from app.problems import Overloaded, RequestTooSlow
from tests.app.inference.conftest import Clock
from tests.server_process import PATIENCE_S

KEY = "sesame, and a little longer"


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
            assert gate.wait(100)
            return embed(*args, **options)

        def post(seed):
            image = {"content": png("red", seed), "headers": {"Content-Type": "image/png"}}
            return client.post("/v1/projects/birds/pool", **image)

        monkeypatch.setattr(embedder, "embed", late)
        monkeypatch.setattr(embedder.admission, "is_too_late", lambda images, delay_s=0: images > 2)
        waiting = [threads.submit(post, seed) for seed in range(2)]
        assert entered.acquire(timeout=60)
        assert entered.acquire(timeout=60)

        refused = post(3)

        assert not any(upload.done() for upload in waiting)
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["type"] == "/problems/overloaded"
        assert "handful_rejected_images_total 1.0" in client.get("/metrics").text
        gate.set()
        assert [upload.result().status_code for upload in waiting] == [201, 201]
        monkeypatch.undo()
        assert post(4).status_code == 201


class Patient:
    """Lets everything in that waits for less than a second."""

    def is_too_late(self, images, delay_s):
        return delay_s > 1

    def overloaded(self, images, delay_s):
        return Overloaded(f"{images}", retry_after=round(delay_s))


def test_the_speed_of_whole_requests_turns_away_where_the_network_is_fast(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("app.http.limits.time", clock)
    monkeypatch.setattr(LoopDelay, "seconds", lambda _: 0.0)
    door = Door(Patient(), threads=2)  # type: ignore[arg-type]
    for _ in range(20):  # one after the other, 0.3 s each
        with door.passed():
            clock.seconds += 0.3
        clock.seconds += 5  # without work, which is not slow

    with door.passed(), door.passed(), door.passed():
        assert door.refusal().retry_after == 1  # the fourth would be answered after 1.2 s
    with door.passed(), door.passed():
        assert door.refusal() is None
    with door.passed():
        clock.seconds += 30
        assert door.refusal() is None  # so many as there are threads are always let in


def test_a_loop_that_is_late_is_known_at_once_and_for_a_while():
    async def look() -> tuple[float, float, float]:
        delay = LoopDelay()
        before = delay.seconds()
        time.sleep(0.3)  # work in the loop
        at_once = delay.seconds()
        await anyio.sleep(0)
        await anyio.sleep(0)
        return before, at_once, delay.seconds()

    before, at_once, after = anyio.run(look)

    assert before == 0
    assert at_once >= 0.2
    assert after >= 0.2


@pytest.mark.parametrize(
    "kind", ["application/json", "application/x+json", "Application/JSON; a=b"]
)
@pytest.mark.parametrize(
    "content",
    [b'"' + b"x" * JSON_BODY_BYTES + b'"', b"[" + b"[]," * JSON_VALUES + b"[]]"],
    ids=["bytes", "values"],
)
@pytest.mark.parametrize("declared", [True, False])
def test_json_is_bounded_whatever_its_type_claims(service, kind, content, declared):
    body = content if declared else iter([content[:100], content[100:]])

    answer = service.post("/v1/projects", content=body, headers={"Content-Type": kind})

    assert answer.status_code == 413
    assert answer.json()["type"] == "/problems/body-too-large"


@pytest.mark.parametrize("kind", [None, "text/plain", "image/png", "application/jsonp", "json"])
def test_what_is_not_json_is_refused_before_it_is_read(service, kind):
    headers = {} if kind is None else {"Content-Type": kind}

    answer = service.post("/v1/projects", content=b'{"name": "birds"}', headers=headers)

    assert answer.status_code == 415
    assert "application/json" in answer.json()["detail"]


def test_large_json_is_taken(birds):
    blanks = b" " * LOOP_BYTES

    large = {"Content-Type": "application/vnd.a+json"}
    named = birds.post("/v1/projects", content=b'{"name": "fish"}' + blanks, headers=large)
    broken = birds.post("/v1/projects", content=b'{"name": "fish"' + blanks, headers=large)
    nothing = birds.post("/v1/projects/birds/webhooks", content=b"")

    assert named.status_code == 201
    assert broken.status_code == 422
    assert nothing.status_code == 422


def test_a_request_without_a_key_brings_little(service):
    long = {"api_key": "x" * 4096}
    json = {"Content-Type": "application/json"}

    for path in ("/v1/session", "/livez"):
        assert service.post(path, json=long).status_code == 413
        assert service.post(path, content=iter([b"{}"]), headers=json).status_code == 411
    assert service.post("/v1/session", json={"api_key": "x"}).status_code == 200


def test_a_request_without_a_key_comes_soon(monkeypatch):
    monkeypatch.setattr("app.http.limits.OPEN_BODY_S", 0.1)

    async def read(_scope, receive, _send):
        await receive()

    async def send_half() -> None:
        headers = [(b"content-length", b"9")]
        scope = {"type": "http", "path": "/v1/session", "headers": headers}
        await BodyLimit(read, 1000)(scope, anyio.sleep_forever, read)  # type: ignore[arg-type]

    with pytest.raises(RequestTooSlow, match=r"within 0\.1 seconds"):
        anyio.run(send_half)


@pytest.mark.parametrize(
    "start",
    [
        b"POST /v1/projects HTTP/1.1\r\nContent-Length: 1000000000\r\n",
        b"POST /v1/projects/birds/pool HTTP/1.1\r\nTransfer-Encoding: chunked\r\n",
        b"POST /v1/session HTTP/1.1\r\nContent-Length: 1000000000\r\n",
        b"GET /livez HTTP/1.1\r\nContent-Length: 1000000000\r\n",
        b"GET /livez HTTP/1.1\r\nTransfer-Encoding: chunked\r\n",
        b"DELETE / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n",
    ],
)
def test_who_has_no_key_is_not_read_to_the_end(locked_process, start):
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with socket.create_connection(("127.0.0.1", locked_process.port), PATIENCE_S) as connection:
        connection.sendall(start + b"Host: a\r\nContent-Type: application/json\r\n\r\n")
        answer = connection.recv(1 << 16)

        with pytest.raises(ConnectionError):
            connection.sendall(chunk * 1000)

    assert answer.split()[1] in {b"401", b"411", b"413"}


@pytest.fixture(scope="module")
def locked_process(server_process):
    """A service in a process of its own that has a key."""
    return server_process(api_key=KEY)
