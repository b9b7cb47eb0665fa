"""Webhooks, told to servers on this machine."""

import base64
import hashlib
import hmac
import http.server
import json
import threading
import time
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from app.jobs.job_queue import JobQueue
from app.main import create_app
from app.sql.tables import Delivery, Project, now
from app.webhooks import delivery
from handful.contract.jobs import JobState
from models.encoders.specs import parse

HOOKS = "/v1/projects/birds/webhooks"


class Receiver(http.server.ThreadingHTTPServer):
    """Keeps what it is told, and answers as it was told to."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Told)
        self.url = f"http://127.0.0.1:{self.server_port}/hook"
        self.told = []
        self.statuses = []  # of the next answers; 204 afterwards


class Told(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.told.append((dict(self.headers), body))
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


def wait_for(what, patience_s=20.0):
    deadline = time.monotonic() + patience_s
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


def messages(receiver, count):
    """The messages, once there are so many of them."""
    wait_for(lambda: len(receiver.told) >= count)
    return [json.loads(body) for _, body in receiver.told]


def deliveries(client, webhook):
    return client.get(f"{HOOKS}/{webhook['id']}/deliveries").json()["items"]


def ended(client, webhook):
    """The deliveries, once none is due any more."""
    wait_for(lambda: all(one["due_at"] is None for one in deliveries(client, webhook)))
    return deliveries(client, webhook)


def pool(client, png, count):
    files = [("files", (f"{n}.png", png("red", n))) for n in range(count)]
    return [i["id"] for i in client.post("/v1/projects/birds/pool", files=files).json()["images"]]


def label(client, image, name):
    answer = client.put(f"/v1/projects/birds/images/{image}/label", json={"label": name})
    assert answer.status_code == 200, answer.text


def test_labels_are_told_and_that_none_is_left_to_give(birds, receiver, png):
    webhook = hook(birds, receiver)
    assert webhook["events"] == [
        "label.set", "job.finished", "version.promoted", "pool.exhausted",
    ]  # fmt: skip
    birds.post("/v1/projects/birds/labels", json={"name": "wren"})
    first, second = pool(birds, png, 2)

    label(birds, first, "wren")
    label(birds, second, "wren")
    label(birds, second, "wren")  # which changes nothing

    told = messages(receiver, 3)
    assert sorted(one["type"] for one in told) == ["label.set", "label.set", "pool.exhausted"]
    project = birds.get("/v1/projects/birds").json()["id"]
    data = next(m["data"] for m in told if m["data"].get("image") == first)
    assert data["project"] == project
    assert (data["label"], data["previous"]) == ("wren", None)
    assert [one["status"] for one in ended(birds, webhook)] == [204] * 3


def test_a_message_is_signed_as_standard_webhooks_are(birds, receiver):
    webhook = hook(birds, receiver)

    test = birds.post(f"{HOOKS}/{webhook['id']}/test").json()

    messages(receiver, 1)
    headers, body = receiver.told[0]
    assert headers["webhook-id"] == test["id"]
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 30
    key = base64.b64decode(webhook["secret"].removeprefix("whsec_"))
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert json.loads(body)["type"] == "webhook.test"
    assert "secret" not in birds.get(f"{HOOKS}/{webhook['id']}").json()
    assert "secret" not in birds.get(HOOKS).json()["items"][0]


def test_only_what_was_asked_for_is_told_and_only_of_its_project(birds, receiver, png):
    webhook = hook(birds, receiver, "pool.exhausted")
    birds.post("/v1/projects", json={"name": "fish"})
    birds.post("/v1/projects/fish/labels", json={"name": "wren"})
    birds.post("/v1/projects/birds/labels", json={"name": "wren"})
    files = {"files": ("0.png", png("blue", 0))}
    other = birds.post("/v1/projects/fish/pool", files=files).json()["images"][0]["id"]
    birds.put(f"/v1/projects/fish/images/{other}/label", json={"label": "wren"})
    first, second = pool(birds, png, 2)

    label(birds, first, "wren")
    assert deliveries(birds, webhook) == []
    label(birds, second, "wren")

    assert [one["event"] for one in ended(birds, webhook)] == ["pool.exhausted"]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_end_of_a_job_and_a_promotion_are_told(database, settings, receiver, request):
    if database == "postgresql":
        url = request.getfixturevalue("postgresql")()
        settings = settings.model_copy(update={"database_url": url})
    app = create_app(settings)
    with TestClient(app, base_url="http://localhost") as client:
        client.post("/v1/projects", json={"name": "birds"})
        hook(client, receiver)
        queue: JobQueue = app.state.parts.queue
        queue.enqueue("birds", "finetune", {}, "")
        queue.finish(queue.claim(), JobState.FAILED, error="no labels")
        with queue.db.reading() as session:
            project = session.scalars(select(Project)).one()
        version = app.state.parts.versions.get_or_create(*parse("conv4:4"))
        with queue.db.writing() as session:
            assert app.state.parts.promotions.move(session, project.id, version)

        told = {one["type"]: one["data"] for one in messages(receiver, 2)}

    assert told["job.finished"]["state"] == "failed"
    assert told["job.finished"]["error"] == "no labels"
    assert told["version.promoted"] == {
        "project": str(project.id), "version": str(version), "previous": str(project.encoder_id),
    }  # fmt: skip


def test_what_fails_is_tried_again_under_the_same_id(birds, receiver):
    receiver.statuses = [500, 302]
    webhook = hook(birds, receiver)

    birds.post(f"{HOOKS}/{webhook['id']}/test")

    messages(receiver, 3)
    assert len({headers["webhook-id"] for headers, _ in receiver.told}) == 1
    assert len({body for _, body in receiver.told}) == 1
    (one,) = ended(birds, webhook)
    assert (one["attempts"], one["status"], one["error"]) == (3, 204, None)
    assert one["delivered_at"] is not None


def test_what_fails_too_often_is_given_up_and_can_be_sent_again(birds, receiver):
    receiver.statuses = [500] * 3
    webhook = hook(birds, receiver)
    birds.post(f"{HOOKS}/{webhook['id']}/test")
    messages(receiver, 3)
    (one,) = ended(birds, webhook)
    assert (one["attempts"], one["delivered_at"]) == (3, None)
    assert one["error"] == "it answered with status 500"

    again = birds.post(f"{HOOKS}/{webhook['id']}/deliveries/{one['id']}/retry")

    assert again.status_code == 202
    wait_for(lambda: deliveries(birds, webhook)[0]["delivered_at"])


def test_who_is_gone_is_told_no_more(birds, receiver):
    receiver.statuses = [410]
    webhook = hook(birds, receiver)
    birds.post(f"{HOOKS}/{webhook['id']}/test")
    wait_for(lambda: birds.get(f"{HOOKS}/{webhook['id']}").json()["gone"])

    birds.post(f"{HOOKS}/{webhook['id']}/test")

    assert [one["error"] for one in ended(birds, webhook)] == [
        "it said that it wants no more",
        "it answered with status 410",
    ]
    assert len(receiver.told) == 1


def test_who_does_not_answer_is_told_later(birds, receiver):
    receiver.shutdown()
    receiver.server_close()
    webhook = hook(birds, receiver)

    birds.post(f"{HOOKS}/{webhook['id']}/test")

    (one,) = ended(birds, webhook)
    assert (one["attempts"], one["status"]) == (3, None)
    assert one["error"] == "127.0.0.1 did not answer: ConnectError"


def test_what_a_process_left_undone_is_done_by_the_next(settings, receiver):
    app = create_app(settings)
    with TestClient(app, base_url="http://localhost") as client:
        client.post("/v1/projects", json={"name": "birds"})
        webhook = hook(client, receiver)
    made = app.state.parts.webhooks.test("birds", UUID(webhook["id"]))  # while no thread runs
    assert receiver.told == []

    with TestClient(create_app(settings), base_url="http://localhost"):
        messages(receiver, 1)

    assert receiver.told[0][0]["webhook-id"] == str(made.id)


def test_old_deliveries_are_forgotten_once_they_have_ended(settings, receiver):
    app = create_app(settings)
    with TestClient(app, base_url="http://localhost") as client:
        client.post("/v1/projects", json={"name": "birds"})
        webhook = hook(client, receiver)
        client.post(f"{HOOKS}/{webhook['id']}/test")
        assert len(ended(client, webhook)) == 1
    old = now() - timedelta(days=31)
    with app.state.parts.queue.db.writing() as session:
        session.execute(update(Delivery).values(created_at=old))
    made = app.state.parts.webhooks.test("birds", UUID(webhook["id"]))
    with app.state.parts.queue.db.writing() as session:
        session.execute(update(Delivery).values(created_at=old))

    with TestClient(create_app(settings), base_url="http://localhost") as client:
        left = deliveries(client, webhook)

    assert [one["id"] for one in left] == [str(made.id)]


def test_addresses_within_are_refused_unless_they_are_allowed(settings, receiver):
    settings = settings.model_copy(update={"webhooks_to_private_addresses": False})
    app = create_app(settings)
    with TestClient(app, base_url="http://localhost") as client:
        client.post("/v1/projects", json={"name": "birds"})
        refused = client.post(HOOKS, json={"url": receiver.url})
        assert refused.status_code == 422
        assert "no public address" in refused.json()["detail"]

    allowed = settings.model_copy(update={"webhooks_to_private_addresses": True})
    with TestClient(create_app(allowed), base_url="http://localhost") as client:
        webhook = hook(client, receiver)
    app.state.parts.webhooks.test("birds", UUID(webhook["id"]))
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        (one,) = ended(client, webhook)
    assert "no public address" in one["error"]
    assert receiver.told == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"url": "ftp://example.org/x"}, "not an http or https address"),
        ({"url": "http://me:secret@127.0.0.1/"}, "may not hold a user"),
        ({"url": "http://127.0.0.1/", "events": []}, "at least 1 item"),
        ({"url": "http://127.0.0.1/", "events": ["label.sat"]}, "label.set"),
        ({"events": ["label.set"]}, "url"),
    ],
)
def test_bad_webhooks_are_refused(birds, body, says):
    answer = birds.post(HOOKS, json=body)

    assert answer.status_code == 422
    assert says in answer.text
    assert birds.get(HOOKS).json()["items"] == []


def test_webhooks_end_with_their_project_and_are_found_in_it_only(birds, receiver):
    webhook = hook(birds, receiver)
    birds.post("/v1/projects", json={"name": "fish"})
    there, missing = webhook["id"], uuid4()

    assert birds.get(f"/v1/projects/fish/webhooks/{there}").status_code == 404
    assert birds.delete(f"/v1/projects/fish/webhooks/{there}").status_code == 404
    assert birds.post(f"{HOOKS}/{there}/deliveries/{missing}/retry").status_code == 404
    assert birds.post(f"{HOOKS}/{missing}/test").status_code == 404
    assert birds.delete(f"{HOOKS}/{there}").status_code == 204
    assert birds.get(f"{HOOKS}/{there}").status_code == 404
    hook(birds, receiver)
    assert birds.delete("/v1/projects/birds").status_code == 204
