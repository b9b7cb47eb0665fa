"""A server that stops, and one whose connections are bounded."""

import asyncio
import http.client
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from functools import partial

import httpx
import pytest
import uvicorn

from app.http.server import HEAD_BYTES, HEADERS, BoundedProtocol, DrainingServer
from app.problems import Overloaded
from tests.server_process import PATIENCE_S, ServerProcess, wait_until


@pytest.fixture
def start(tmp_path):
    """Starts a server in a process of its own."""
    running = []

    def make(drain_seconds: float) -> ServerProcess:
        running.append(ServerProcess(tmp_path, drain_seconds=drain_seconds))
        return running[-1]

    yield make
    for server in running:
        server.kill()


def test_it_is_not_ready_then_takes_nothing_new_then_finishes_then_ends(start, png):
    server = start(drain_seconds=12)
    process, url = server.process, server.url
    httpx.post(f"{url}/v1/projects", json={"name": "birds"}).raise_for_status()
    content = png("red")
    slow = http.client.HTTPConnection("127.0.0.1", server.port)
    slow.putrequest("POST", "/v1/projects/birds/pool")
    slow.putheader("Content-Type", "image/png")
    slow.putheader("Content-Length", str(len(content)))
    slow.endheaders()
    slow.send(content[:20])

    process.send_signal(signal.SIGTERM)
    wait_until(lambda: server.readiness() == 503)
    answer = httpx.get(f"{url}/readyz").json()
    other = httpx.post(f"{url}/v1/projects/birds/pool", files={"files": png("blue")})
    wait_until(lambda: server.readiness() is None)
    assert process.poll() is None
    slow.send(content[20:])

    assert answer["checks"]["service"] == "stopping"
    assert other.status_code == 201
    assert slow.getresponse().status == 201
    slow.close()
    assert process.wait(60) == 0


def test_a_second_signal_spares_the_wait(start):
    server = start(drain_seconds=600)
    process = server.process
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: server.readiness() == 503)

    process.send_signal(signal.SIGTERM)

    assert process.wait(60) == 0


def test_ctrl_c_does_not_wait(start):
    process = start(drain_seconds=600).process

    process.send_signal(signal.SIGINT)

    assert process.wait(60) == 0


@pytest.fixture
def bounded(monkeypatch):
    """Starts servers of a small application in this process; the port of each."""
    running = []

    async def application(scope, receive, send):
        await read_body(receive)
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}
        )
        await send({"type": "http.response.body"})

    def make(
        connections: int = 100, head_s: float = 300, refusal=lambda: None, on_turn=None
    ) -> int:
        monkeypatch.setattr("app.http.server.HEAD_S", head_s)
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            application,
            lifespan="off",
            log_config=None,
            http=partial(BoundedProtocol, refusal=refusal),  # type: ignore[arg-type]
            limit_concurrency=connections,
        )
        server = DrainingServer(config, 0)
        if on_turn:

            def turn() -> None:
                on_turn()
                asyncio.get_running_loop().call_soon(turn)

            async def ticking(counter: int, tick=server.on_tick) -> bool:
                if not counter:
                    turn()
                return await tick(counter)

            monkeypatch.setattr(server, "on_tick", ticking)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        running.append((server, thread, listener))
        return listener.getsockname()[1]

    yield make
    for server, thread, listener in running:
        server.should_exit = True
        thread.join()
        listener.close()


async def read_body(receive) -> None:
    while (message := await receive())["type"] == "http.request" and message["more_body"]:
        pass


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def exchange(port: int, *parts: bytes) -> bytes:
    """What a server sends to bytes, until it closes the connection."""
    with connect(port) as connection:
        with suppress(ConnectionError):  # it need not read to the end
            for part in parts:
                connection.sendall(part)
        answer = b""
        with suppress(ConnectionError):
            while received := connection.recv(1 << 16):
                answer += received
    return answer


START = b"GET / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        (START + b"X: " + b"x" * HEAD_BYTES + b"\r\n\r\n",),
        (START + b"X: ", *[b"x" * 4096] * 64),
        (START + b"a: b\r\n" * HEADERS + b"\r\n",),
        (b"GET /" + b"x" * HEAD_BYTES + b" HTTP/1.1\r\nHost: a\r\n\r\n",),
        (CHUNKED + b"0\r\n", *[b"a: b\r\n"] * HEADERS),
        (CHUNKED + b"1;", *[b"x" * 4096] * 64),
    ],
    ids=["long", "endless", "many", "address", "trailers", "chunk-extension"],
)
def test_what_is_no_body_is_bounded(bounded, parts):
    answer = exchange(bounded(), *parts)

    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"/problems/headers-too-large" in answer


def test_bodies_are_not(bounded):
    port = bounded()
    large = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1000000\r\n\r\n"
    tiny = CHUNKED.replace(b"Host", b"Connection: close\r\nHost")
    ordinary = START + b"X: y\r\n" * (HEADERS - 2) + b"Connection: close\r\n\r\n"

    for parts in ((large, bytes(1_000_000)), (tiny, b"1\r\nx\r\n" * 20_000, b"0\r\n\r\n")):
        assert exchange(port, *parts).startswith(b"HTTP/1.1 200 ")
    assert (
        exchange(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3000 + ordinary).count(b" 200 ")
        == 3001
    )


@pytest.mark.parametrize("start", [b"", b"GET / HT", START])
def test_headers_have_to_come_in_time(bounded, start):
    answer = exchange(bounded(head_s=0.2), start)

    assert b"HTTP/1.1 408 " in answer
    assert b"/problems/request-too-slow" in answer


def test_headers_of_a_later_request_have_to_come_in_time(bounded):
    with connect(bounded(head_s=0.2)) as connection:
        connection.sendall(START + b"\r\n")
        assert b" 200 " in connection.recv(1 << 16)
        connection.sendall(b"\r\n")  # which ends uvicorn's own wait

        assert b" 408 " in connection.recv(1 << 16)
        assert connection.recv(1) == b""


def test_what_is_no_http_is_told_so(bounded):
    answer = exchange(bounded(), b"nonsense\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"/problems/malformed-request" in answer


UPLOAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"


def test_uploads_are_turned_away_before_the_service_sees_them(bounded):
    port = bounded(refusal=lambda: Overloaded("come again", retry_after=3))
    later = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

    answers = exchange(port, UPLOAD % 5000 + b"x" * 5000 + later)

    assert answers.startswith(b"HTTP/1.1 429 ")
    assert b"\r\nretry-after: 3\r\n" in answers
    assert b"/problems/overloaded" in answers
    assert answers.count(b"HTTP/1.1 200 OK") == 1  # what reads is let in, on the same connection


def test_what_is_no_upload_is_let_in_under_load(bounded):
    port = bounded(refusal=lambda: Overloaded("come again", retry_after=3))
    body = b"Content-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"

    assert exchange(port, b"POST / HTTP/1.1\r\nHost: a\r\n" + body).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_was_turned_away_is_not_read_to_its_end(bounded):
    port = bounded(refusal=lambda: Overloaded("come again", retry_after=3))
    with connect(port) as connection:
        connection.sendall(UPLOAD % (1 << 30))
        assert connection.recv(12) == b"HTTP/1.1 429"
        with pytest.raises(ConnectionError):
            connection.sendall(b"x" * (1 << 30))


def test_many_connections_are_taken_at_each_turn_of_the_loop(bounded):
    gate, turns = threading.Event(), [0]
    refused: list[None] = []

    def refuse() -> Overloaded:
        refused.append(None)
        return Overloaded("come again", retry_after=3)

    def look() -> None:
        gate.wait(PATIENCE_S)
        turns.append(len(refused))

    port = bounded(connections=1000, refusal=refuse, on_turn=look)
    with ExitStack() as stack:
        stack.callback(gate.set)
        connections = [stack.enter_context(connect(port)) for _ in range(100)]
        for connection in connections:
            connection.sendall(UPLOAD % 0)
        gate.set()  # all are there before the first turn
        for connection in connections:
            assert connection.recv(12) == b"HTTP/1.1 429"
        wait_until(lambda: turns[-1] == 100)

    assert turns.index(100) < 50  # a hundred, and more, if each turn took one


def test_who_holds_many_connections_shuts_nobody_out(bounded):
    gate = threading.Event()
    port = bounded(connections=20, on_turn=partial(gate.wait, PATIENCE_S))
    with ExitStack() as stack:
        stack.callback(gate.set)
        half_open = [stack.enter_context(connect(port)) for _ in range(60)]
        for connection in half_open:
            connection.sendall(b"GET / HT")
        whole = stack.enter_context(connect(port))
        whole.sendall(START + b"\r\n")
        gate.set()  # many are taken at one turn

        later = START + b"Connection: close\r\n\r\n"
        answers = [whole.recv(12), *(exchange(port, later) for _ in range(10))]

        assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
        with suppress(ConnectionResetError):
            assert half_open[0].recv(1) == b""


def test_the_limit_of_open_files_is_raised():
    program = (
        "import resource; from app.http.server import *; "
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard)); "
        "print(raise_descriptors(), min(hard, DESCRIPTORS), max_connections(1024))"
    )

    output = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    descriptors, most, connections = map(int, output.stdout.split())
    assert descriptors == most
    assert connections == 512
