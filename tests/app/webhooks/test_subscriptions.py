"""Who is told: webhooks are made within limits, and belong to their project."""

from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from tests.app.webhooks.conftest import HOOKS, ended, hook


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
        (message,) = ended(client, webhook)
    assert "no public address" in message["error"]
    assert receiver.requests == []


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
    known, missing = webhook["id"], uuid4()

    assert birds.get(f"/v1/projects/fish/webhooks/{known}").status_code == 404
    assert birds.delete(f"/v1/projects/fish/webhooks/{known}").status_code == 404
    assert birds.post(f"{HOOKS}/{known}/deliveries/{missing}/retry").status_code == 404
    assert birds.post(f"{HOOKS}/{missing}/test").status_code == 404
    assert birds.delete(f"{HOOKS}/{known}").status_code == 204
    assert birds.get(f"{HOOKS}/{known}").status_code == 404
    hook(birds, receiver)
    assert birds.delete("/v1/projects/birds").status_code == 204
