"""The job that promotes a version which has not embedded all images yet."""

from uuid import UUID

import pytest
from sqlalchemy import func, select

from app.encoders.promotion import Promotions
from app.sql.tables import Embedding, Image
from tests import databases
from tests.app.jobs.kinds.conftest import events

ENCODERS = "/v1/projects/birds/encoders"


database_url = databases.each


@pytest.fixture
def version(striped):
    """Id of a version with the weights of the current one."""
    current = striped.get("/v1/projects/birds").json()["encoder"]["id"]
    weights = striped.get(f"{ENCODERS}/{current}/weights").content
    answer = striped.post(
        ENCODERS, content=weights, headers={"content-type": "application/octet-stream"}
    )
    assert answer.status_code == 201, answer.text
    assert answer.json()["parent"] == current
    return answer.json()["id"]


def serving(service):
    return service.get("/v1/projects/birds").json()["encoder"]["id"]


def test_a_version_that_has_embedded_nothing_is_promoted_by_a_job(striped, version, do):
    before = serving(striped)

    answer = striped.post(f"{ENCODERS}/{version}/promote")
    waiting = serving(striped)
    do(striped)

    assert answer.status_code == 202
    assert answer.json()["promoted"] is False
    assert waiting == before
    assert serving(striped) == version
    progress = events(striped, answer.headers["Location"])
    assert [p["done"] for p in progress] == sorted(p["done"] for p in progress)
    assert (progress[-1]["stage"], progress[-1]["done"], progress[-1]["left"]) == (
        "embedding",
        36,
        0,
    )
    assert (progress[-1]["share"], progress[-1]["title"]) == (1, "embedding")
    job = striped.get(answer.headers["Location"]).json()
    assert job["result"]["summary"] == f"version {version} promoted"


def test_what_was_asked_of_a_version_before_it_had_embedded_the_images_is_not_kept(
    striped, stripes, version, do
):
    def classify(**params):
        files = [("files", stripes("level", 99))]
        return striped.post("/v1/projects/birds/classify", files=files, params=params)

    assert classify(query_encoder=version).status_code == 409  # no bridge from no images

    striped.post(f"{ENCODERS}/{version}/promote")
    do(striped)

    assert classify().status_code == 200
    ranked = striped.post("/v1/projects/birds/pool/rank", json={"budget": 4}).json()["images"]
    assert len(ranked) == 4


def test_promoting_the_version_before_rolls_back_at_once(striped, version, do):
    before = serving(striped)
    striped.post(f"{ENCODERS}/{version}/promote")
    do(striped)

    answer = striped.post(f"{ENCODERS}/{before}/promote")

    assert answer.status_code == 200
    assert answer.json() == {"promoted": True, "job": None}
    assert serving(striped) == before


def test_images_that_come_during_a_promotion_are_neither_lost_nor_mixed(
    striped, version, do, stripes, monkeypatch
):
    striped.post(f"{ENCODERS}/{version}/promote")
    arrivals = iter(range(3))
    embed = Promotions.embed_missing

    def then_images_come(self, *args):
        yield from embed(self, *args)
        if (n := next(arrivals, None)) is not None:
            sent = striped.post(
                "/v1/projects/birds/pool", files=[("files", stripes("level", 200 + n))]
            )
            assert sent.status_code == 201

    monkeypatch.setattr(Promotions, "embed_missing", then_images_come)

    do(striped)

    assert serving(striped) == version
    with striped.app.state.parts.queue.db.reading() as session:
        images = session.scalars(select(func.count(Image.id))).one()
        embedded = session.scalars(
            select(func.count(Embedding.image_id)).where(Embedding.encoder_id == UUID(version))
        ).one()
    assert images == embedded == 39


def test_a_version_of_another_project_is_not_found(striped, version):
    striped.post("/v1/projects", json={"name": "fish"})

    answer = striped.post(f"/v1/projects/fish/encoders/{version}/promote")

    assert answer.status_code == 404
    assert "GET /v1/projects/fish/encoders lists them" in answer.json()["detail"]
    listed = striped.get("/v1/projects/fish/encoders").json()["items"]
    assert version not in [item["id"] for item in listed]


def test_a_deleted_project_takes_its_versions_along(striped, version, do):
    striped.post(f"{ENCODERS}/{version}/promote")
    do(striped)

    assert striped.delete("/v1/projects/birds").status_code == 204

    striped.post("/v1/projects", json={"name": "fish"})
    assert len(striped.get("/v1/projects/fish/encoders").json()["items"]) == 1
