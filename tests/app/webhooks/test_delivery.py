"""Messages are signed, sent, and sent again while they do not arrive."""

import base64
import hashlib
import hmac
import json
import time
from uuid import UUID

from fastapi.testclient import TestClient

from app.main import create_app
from tests.app.webhooks.conftest import HOOKS, deliveries, ended, hook, messages, wait_for


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
        "it said that it wants no more",
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
    delivery = app.state.parts.webhooks.test("birds", UUID(webhook["id"]))  # while no thread runs
    assert receiver.requests == []

    with TestClient(create_app(settings), base_url="http://localhost"):
        messages(receiver, 1)

    assert receiver.requests[0][0]["webhook-id"] == str(delivery.id)
