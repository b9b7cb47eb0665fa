"""A server that stops."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def start(tmp_path):
    """Starts a server in a process of its own that is ready: the process, its port, its address."""
    running = []

    def make(drain_seconds: float) -> tuple[subprocess.Popen[bytes], int, str]:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        settings = {
            "HANDFUL_DATA_DIR": str(tmp_path),
            "HANDFUL_ENCODER": "conv4:8",
            "HANDFUL_RUNTIME": "pytorch",
            "HANDFUL_WORKERS": "0",
            "HANDFUL_DRAIN_SECONDS": str(drain_seconds),
        }
        command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port)]
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **settings}, stderr=subprocess.DEVNULL
        )
        running.append(process)
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: status(url) == 200)
        return process, port, url

    yield make
    for process in running:
        process.kill()
        process.wait()


def status(url: str) -> int | None:
    """Of `/readyz`; None while nobody listens."""
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).status_code
    except httpx.TransportError:
        return None


def wait_until(there) -> None:
    deadline = time.monotonic() + 120
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_is_not_ready_then_takes_nothing_new_then_finishes_then_ends(start, png):
    process, port, url = start(drain_seconds=12)
    httpx.post(f"{url}/v1/projects", json={"name": "birds"}).raise_for_status()
    content = png("red")
    slow = http.client.HTTPConnection("127.0.0.1", port)
    slow.putrequest("POST", "/v1/projects/birds/pool")
    slow.putheader("Content-Type", "image/png")
    slow.putheader("Content-Length", str(len(content)))
    slow.endheaders()
    slow.send(content[:20])

    process.send_signal(signal.SIGTERM)
    wait_until(lambda: status(url) == 503)
    answer = httpx.get(f"{url}/readyz").json()
    other = httpx.post(f"{url}/v1/projects/birds/pool", files={"files": png("blue")})
    wait_until(lambda: status(url) is None)
    assert process.poll() is None
    slow.send(content[20:])

    assert answer["checks"]["service"] == "stopping"
    assert other.status_code == 201
    assert slow.getresponse().status == 201
    slow.close()
    assert process.wait(60) == 0


def test_a_second_signal_spares_the_wait(start):
    process, _, url = start(drain_seconds=600)
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: status(url) == 503)

    process.send_signal(signal.SIGTERM)

    assert process.wait(60) == 0


def test_ctrl_c_does_not_wait(start):
    process, _, _ = start(drain_seconds=600)

    process.send_signal(signal.SIGINT)

    assert process.wait(60) == 0
