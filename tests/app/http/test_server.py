"""A server that stops."""

import http.client
import signal

import httpx
import pytest

from tests.server_process import ServerProcess, wait_until


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
