"""Who is told: webhooks are made within limits, and belong to their project."""

from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.labeling.annotations import Annotations, Change
from app.main import create_app
from app.sql.lookups import find_project
from app.sql.tables import Delivery, Image, Label
from app.webhooks import outbox, subscriptions
from handful.contract.webhooks import Event
from tests.app.webhooks.conftest import HOOKS, Rival, ended, hook

URL = "http://127.0.0.1:9/"


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


def test_a_label_is_set_while_a_webhook_is_deleted(webhooks, each_db, monkeypatch):
    webhook = webhooks.create("birds", URL, list(Event))
    with each_db.writing() as session:
        project = find_project(session, "birds")
        image = Image(
            project_id=project.id, sha256="0" * 64, media_type="image/png", width=1, height=1,
            bytes=1, revision=1,
        )  # fmt: skip
        session.add_all([image, Label(project_id=project.id, name="wren")])
    rival = Rival(each_db, lambda: webhooks.delete("birds", webhook.id))
    monkeypatch.setattr(outbox, "message", rival.at(outbox.message))

    change = Change(image.id, "wren", None, "annotation")
    view = Annotations(each_db).set_label("birds", change)

    assert view.label == "wren"
    rival.outcome()
    assert webhooks.page("birds", None, 10) == []


def test_who_tells_without_the_project_holds_the_webhook(webhooks, each_db, monkeypatch):
    webhook = webhooks.create("birds", URL, list(Event))
    rival = Rival(each_db, lambda: webhooks.delete("birds", webhook.id))
    monkeypatch.setattr(outbox, "message", rival.at(outbox.message))

    with each_db.writing() as session:
        outbox.tell(session, webhook.project_id, Event.JOB_FINISHED, {})

    rival.outcome()
    with each_db.reading() as session:
        assert session.scalars(select(Delivery)).all() == []


@pytest.mark.parametrize("ask", ["test", "retry"])
def test_a_message_is_asked_for_while_its_webhook_is_deleted(webhooks, each_db, monkeypatch, ask):
    webhook = webhooks.create("birds", URL, list(Event))
    delivery = webhooks.test("birds", webhook.id)
    rival = Rival(each_db, lambda: webhooks.delete("birds", webhook.id))
    monkeypatch.setattr(subscriptions, "_find", rival.at(subscriptions._find))

    message = (
        webhooks.test("birds", webhook.id)
        if ask == "test"
        else webhooks.retry("birds", webhook.id, delivery.id)
    )

    assert message.webhook_id == webhook.id
    rival.outcome()
    assert webhooks.page("birds", None, 10) == []


def test_a_webhook_is_made_while_its_project_is_deleted(webhooks, each_db, monkeypatch):
    def delete_project():
        with each_db.writing() as session:
            session.delete(find_project(session, "birds", lock=True))

    rival = Rival(each_db, delete_project)
    monkeypatch.setattr(subscriptions, "find_project", rival.at(find_project))

    assert webhooks.create("birds", URL, list(Event)).url == URL
    rival.outcome()
