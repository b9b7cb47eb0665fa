"""A server on this machine that webhooks lead to, and what tests ask of the service about them."""

import http.server
import json
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from sqlalchemy import text

from app.sql.database import Database
from app.sql.tables import Project
from app.webhooks import delivery
from app.webhooks.subscriptions import Webhooks
from tests import databases

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


each_url = databases.each


@pytest.fixture
def each_db(each_url, tmp_path, migrated):
    """A database of each kind that no service has."""
    database = Database(each_url or f"sqlite:///{shutil.copy(migrated, tmp_path)}")
    yield database
    database.close()


@pytest.fixture
def webhooks(each_db, make_version) -> Webhooks:
    """Webhooks of the projects `birds` and `fish`, which nobody delivers to by himself."""
    encoder = make_version(each_db)
    with each_db.writing() as session:
        for name in ("birds", "fish"):
            session.add(Project(name=name, head={}, encoder_id=encoder))
    return Webhooks(each_db, private=True)


class Rival:
    """Work of another thread that begins at a chosen point of ours.

    We go on when it has ended or waits for a lock of ours, whatever the machine does.
    """

    def __init__(self, db: Database, work: Callable[[], object]) -> None:
        self._db, self._work = db, work
        self._threads = ThreadPoolExecutor(1)
        self._future: Future[object] | None = None

    def at(self, point: Callable) -> Callable:
        """A function that lets the other work begin when it has done its own, the first time."""

        def reached(*arguments, **options):
            outcome = point(*arguments, **options)
            if self._future is None:
                self._meet()
            return outcome

        return reached

    def outcome(self) -> object:
        assert self._future is not None, "the point was never reached"
        with self._threads:
            return self._future.result()

    def _meet(self) -> None:
        began = threading.Event()

        def work() -> object:
            began.set()
            return self._work()

        self._future = self._threads.submit(work)
        if self._db.is_sqlite:
            assert began.wait(60)  # writers take turns from their beginning
        else:
            wait_for(lambda: self._future.done() or self._waits(), 60)

    def _waits(self) -> bool:
        query = text(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        with self._db.reading() as session:
            return session.scalar(query) > 0


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
