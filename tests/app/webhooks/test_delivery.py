"""Messages are signed, sent, and sent again while they do not arrive."""

import base64
import hashlib
import hmac
import json
import threading
import time
from datetime import timedelta
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from app.main import create_app
from app.sql.tables import Webhook, now
from app.storage import remote
from app.webhooks import delivery
from app.webhooks.delivery import Deliverer
from handful.contract.webhooks import Event
from tests.app.webhooks.conftest import HOOKS, deliveries, ended, hook, messages, wait_for

URL = "http://127.0.0.1:9/"


def test_a_message_is_signed_as_standard_webhooks_are(birds, receiver):
    webhook = hook(birds, receiver)

    test = birds.post(f"{HOOKS}/{webhook['id']}/test").json()

    messages(receiver, 1)
    headers, body = receiver.requests[0]
    assert headers["webhook-id"] == test["id"]
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 30
    key = base64.b64decode(webhook["secret"].removeprefix("whsec_"))
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert json.loads(body)["type"] == "webhook.test"
    assert "secret" not in birds.get(f"{HOOKS}/{webhook['id']}").json()
    assert "secret" not in birds.get(HOOKS).json()["items"][0]


def test_what_fails_is_tried_again_under_the_same_id(birds, receiver):
    receiver.statuses = [500, 302]
    webhook = hook(birds, receiver)

    birds.post(f"{HOOKS}/{webhook['id']}/test")

    messages(receiver, 3)
    assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 1
    assert len({body for _, body in receiver.requests}) == 1
    (message,) = ended(birds, webhook)
    assert (message["attempts"], message["status"], message["error"]) == (3, 204, None)
    assert message["delivered_at"] is not None


def test_what_fails_too_often_is_given_up_and_can_be_sent_again(birds, receiver):
    receiver.statuses = [500] * 3
    webhook = hook(birds, receiver)
    birds.post(f"{HOOKS}/{webhook['id']}/test")
    messages(receiver, 3)
    (message,) = ended(birds, webhook)
    assert (message["attempts"], message["delivered_at"]) == (3, None)
    assert message["error"] == "it answered with status 500"

    again = birds.post(f"{HOOKS}/{webhook['id']}/deliveries/{message['id']}/retry")

    assert again.status_code == 202
    wait_for(lambda: deliveries(birds, webhook)[0]["delivered_at"])


def test_who_is_gone_is_told_no_more(birds, receiver):
    receiver.statuses = [410]
    webhook = hook(birds, receiver)
    birds.post(f"{HOOKS}/{webhook['id']}/test")
    wait_for(lambda: birds.get(f"{HOOKS}/{webhook['id']}").json()["gone"])

    birds.post(f"{HOOKS}/{webhook['id']}/test")

    assert [message["error"] for message in ended(birds, webhook)] == [
        "nothing more is sent there: it said so, or failed for days",
        "it answered with status 410",
    ]
    assert len(receiver.requests) == 1


def test_who_does_not_answer_is_told_later(birds, receiver):
    receiver.shutdown()
    receiver.server_close()
    webhook = hook(birds, receiver)

    birds.post(f"{HOOKS}/{webhook['id']}/test")

    (message,) = ended(birds, webhook)
    assert (message["attempts"], message["status"]) == (3, None)
    assert message["error"] == "127.0.0.1 did not answer: ConnectError"


def test_what_a_process_left_undone_is_done_by_the_next(settings, receiver):
    app = create_app(settings)
    with TestClient(app, base_url="http://localhost") as client:
        client.post("/v1/projects", json={"name": "birds"})
        webhook = hook(client, receiver)
    message = app.state.parts.webhooks.test("birds", UUID(webhook["id"]))  # while no thread runs
    assert receiver.requests == []

    with TestClient(create_app(settings), base_url="http://localhost"):
        messages(receiver, 1)

    assert receiver.requests[0][0]["webhook-id"] == str(message.id)


@pytest.fixture
def statuses(monkeypatch):
    """Answers of whoever is told something; 204 when there are no more."""
    queued: list[int] = []
    monkeypatch.setattr(remote, "post", lambda *_, **__: queued.pop(0) if queued else 204)
    return queued


def attempt(deliverer: Deliverer):
    """Send what is due; the message."""
    claim = deliverer._claim()
    assert claim is not None
    deliverer._send(claim)
    return claim


def test_a_webhook_has_one_message_under_way_and_projects_take_turns(webhooks, each_db):
    first, second = (webhooks.create("birds", URL, list(Event)) for _ in range(2))
    other = webhooks.create("fish", URL, list(Event))
    for webhook in (first, first, first, second):
        webhooks.test("birds", webhook.id)
    webhooks.test("fish", other.id)
    deliverer = Deliverer(each_db)

    claims = [deliverer._claim() for _ in range(4)]

    assert [claim and claim.webhook_id for claim in claims] == [first.id, other.id, second.id, None]


def test_a_slow_project_does_not_keep_another_waiting(webhooks, each_db, statuses):
    """Whoever was served last comes last, however much is due there and for however long."""
    slow = [webhooks.create("birds", URL, list(Event)) for _ in range(3)]
    other = webhooks.create("fish", URL, list(Event))
    for _ in range(2):
        for webhook in slow:
            webhooks.test("birds", webhook.id)
    for _ in range(3):
        webhooks.test("fish", other.id)
    deliverer = Deliverer(each_db)

    served = []
    for _ in range(6):
        claim = attempt(deliverer)
        served.append("fish" if claim.webhook_id == other.id else "birds")

    assert served == ["birds", "fish"] * 3


def test_what_fails_again_and_again_is_left_alone_for_a_while(webhooks, each_db, statuses):
    webhook = webhooks.create("birds", URL, list(Event))
    for _ in range(6):
        webhooks.test("birds", webhook.id)
    deliverer = Deliverer(each_db)

    statuses += [500] * 5
    for _ in range(5):
        attempt(deliverer)
    paused = webhooks.read("birds", webhook.id)
    assert deliverer._claim() is None
    webhooks.test("birds", webhook.id)  # which asks for an attempt
    attempt(deliverer)
    resumed = webhooks.read("birds", webhook.id)

    assert (paused.failures, paused.gone) == (5, False)
    assert paused.failing_since < paused.paused_until
    assert (resumed.failures, resumed.failing_since, resumed.paused_until) == (0, None, None)
    assert deliverer._claim() is not None


def test_what_failed_for_days_is_given_up_until_somebody_tries_again(webhooks, each_db, statuses):
    webhook = webhooks.create("birds", URL, list(Event))
    _, second = (webhooks.test("birds", webhook.id) for _ in range(2))
    deliverer = Deliverer(each_db)
    with each_db.writing() as session:
        session.execute(update(Webhook).values(failing_since=now() - timedelta(days=5)))

    statuses += [500]
    attempt(deliverer)
    assert webhooks.read("birds", webhook.id).gone
    assert {d.due_at for d in webhooks.deliveries("birds", webhook.id, None, 9)} == {None}
    assert deliverer._claim() is None
    webhooks.retry("birds", webhook.id, second.id)

    assert attempt(deliverer).delivery_id == second.id
    assert not webhooks.read("birds", webhook.id).gone


def test_what_a_process_had_under_way_when_it_stopped_goes_to_another(webhooks, each_db, statuses):
    webhook = webhooks.create("birds", URL, list(Event))
    webhooks.test("birds", webhook.id)
    deliverer = Deliverer(each_db)
    stopped = deliverer._claim()
    assert deliverer._claim() is None
    with each_db.writing() as session:
        session.execute(update(Webhook).values(busy_until=now() - timedelta(days=1)))

    taken = deliverer._claim()
    assert stopped is not None
    assert taken is not None
    statuses += [500]
    deliverer._send(stopped)  # it was only asleep, and must not say that nothing is under way

    assert taken.delivery_id == stopped.delivery_id
    assert webhooks.read("birds", webhook.id).busy_until == taken.busy_until


def test_one_thread_looks_out_for_all(each_db, monkeypatch):
    looking, most, looks = 0, 0, 0

    def look(_: Deliverer) -> None:
        nonlocal looking, most, looks
        looking += 1
        most = max(most, looking)
        time.sleep(0.001)  # in which another thread would come
        looking -= 1
        looks += 1

    monkeypatch.setattr(delivery, "POLL_S", 0.0)
    monkeypatch.setattr(Deliverer, "_claim", look)
    with Deliverer(each_db):
        wait_for(lambda: looks >= 20)

    assert most == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_deliverer_that_died_or_stands_still_fails_livez(birds, monkeypatch):
    deliverer = birds.app.state.parts.deliverer
    assert birds.get("/livez").json() == {"live": True, "ailments": []}

    entered, gate = threading.Event(), threading.Event()

    def stop(_: Deliverer) -> None:
        entered.set()
        assert gate.wait(60)
        raise SystemExit

    monkeypatch.setattr(Deliverer, "_claim", stop)
    assert entered.wait(60)
    stalled = wait_for(lambda: deliverer.ailments(stall_s=0))
    gate.set()
    wait_for(lambda: len(deliverer.ailments(stall_s=60)) == delivery.THREADS)

    assert "has been busy for" in stalled[0]
    answer = birds.get("/livez")
    assert answer.status_code == 503
    assert "thread webhooks-0 has ended" in answer.json()["ailments"]


def test_a_project_sees_how_its_webhooks_do(birds, receiver):
    webhook = hook(birds, receiver)
    assert (webhook["failures"], webhook["paused_until"]) == (0, None)

    with birds.app.state.parts.db.writing() as session:
        session.execute(update(Webhook).values(paused_until=now() + timedelta(days=1), failures=7))

    paused = birds.get(f"{HOOKS}/{webhook['id']}").json()
    assert paused["failures"] == 7
    assert paused["paused_until"] is not None
