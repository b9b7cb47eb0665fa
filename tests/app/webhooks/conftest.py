"""A server on this machine that webhooks lead to, and what tests ask of the service about them."""

import http.server
import json
import threading
import time

import pytest

from app.webhooks import delivery

HOOKS = "/v1/projects/birds/webhooks"


class Receiver(http.server.ThreadingHTTPServer):
    """Keeps what it is told, and answers as it was told to."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Hook)
        self.url = f"http://127.0.0.1:{self.server_port}/hook"
        self.requests = []
        self.statuses = []  # of the next answers; 204 afterwards


class Hook(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((dict(self.headers), body))
        status = self.server.statuses.pop(0) if self.server.statuses else 204
        self.send_response(status)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def receiver():
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"webhooks_to_private_addresses": True})


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(delivery, "POLL_S", 0.02)
    monkeypatch.setattr(delivery, "RETRIES_S", (0.01, 0.01))


def hook(client, receiver, *events):
    body = {"url": receiver.url} | ({"events": events} if events else {})
    answer = client.post(HOOKS, json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def wait_for(condition, patience_s=20.0):
    deadline = time.monotonic() + patience_s
    while not (outcome := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return outcome


def messages(receiver, count):
    """The messages, once there are so many of them."""
    wait_for(lambda: len(receiver.requests) >= count)
    return [json.loads(body) for _, body in receiver.requests]


def deliveries(client, webhook):
    return client.get(f"{HOOKS}/{webhook['id']}/deliveries").json()["items"]


def ended(client, webhook):
    """The deliveries, once none is due any more."""
    wait_for(lambda: all(d["due_at"] is None for d in deliveries(client, webhook)))
    return deliveries(client, webhook)


def pool(client, png, count):
    files = [("files", (f"{n}.png", png("red", n))) for n in range(count)]
    return [i["id"] for i in client.post("/v1/projects/birds/pool", files=files).json()["images"]]


def label(client, image, name):
    answer = client.put(f"/v1/projects/birds/images/{image}/label", json={"label": name})
    assert answer.status_code == 200, answer.text
