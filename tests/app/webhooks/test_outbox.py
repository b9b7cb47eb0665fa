"""What happens in a project is written down for the webhooks that want to hear of it."""

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.jobs.job_queue import JobQueue
from app.main import create_app
from app.sql.tables import Project
from handful.contract.jobs import JobState
from models.encoders.specs import parse
from tests.app.webhooks.conftest import deliveries, ended, hook, label, messages, pool


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

    bodies = messages(receiver, 3)
    assert sorted(message["type"] for message in bodies) == [
        "label.set",
        "label.set",
        "pool.exhausted",
    ]
    project = birds.get("/v1/projects/birds").json()["id"]
    data = next(m["data"] for m in bodies if m["data"].get("image") == first)
    assert data["project"] == project
    assert (data["label"], data["previous"]) == ("wren", None)
    assert [message["status"] for message in ended(birds, webhook)] == [204] * 3


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

    assert [message["event"] for message in ended(birds, webhook)] == ["pool.exhausted"]


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
        claim = queue.claim()
        assert claim is not None
        queue.finish(claim, JobState.FAILED, error="no labels")
        with queue.db.reading() as session:
            project = session.scalars(select(Project)).one()
        version = app.state.parts.versions.get_or_create(*parse("conv4:4"))
        with queue.db.writing() as session:
            assert app.state.parts.promotions.move(session, project.id, version)

        data = {message["type"]: message["data"] for message in messages(receiver, 2)}

    assert data["job.finished"]["state"] == "failed"
    assert data["job.finished"]["error"] == "no labels"
    assert data["version.promoted"] == {
        "project": str(project.id), "version": str(version), "previous": str(project.encoder_id),
    }  # fmt: skip
