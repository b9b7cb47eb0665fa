"""States of a project that are easy to forget: each gets a clear answer."""

from uuid import UUID

import numpy as np
import pytest
import torch
from sqlalchemy import delete, select

from app.sql.tables import Embedding
from models.acquisition import of_labeled
from models.acquisition.strategies import strategies
from models.encoders import Encoder
from tests.uploads import upload

RANK = "/v1/projects/birds/pool/rank"


def add(service, path, *contents):
    """Ids of the images that pictures become."""
    answer = upload(service, path, *contents)
    assert answer.status_code == 201, answer.text
    return [image["id"] for image in answer.json()["images"]]


def rank(service, name, budget=3):
    return service.post(RANK, json={"strategy": {"name": name}, "budget": budget})


def ranked(service, name, budget=3):
    answer = rank(service, name, budget)
    assert answer.status_code == 200, (name, answer.text)
    return [image["image"] for image in answer.json()["images"]]


def same(png, count, first=0):
    """Different files of the same picture."""
    return [png("white") + bytes(first + n + 1) for n in range(count)]


def of_pool(*, needs_classes):
    return [
        name
        for name in strategies
        if not of_labeled(strategies[name]()) and strategies[name].needs_classes == needs_classes
    ]


def db(service):
    return service.app.state.parts.db


def test_a_pool_without_images(birds, png):
    for name in of_pool(needs_classes=False):
        assert ranked(birds, name) == []
    for name in of_pool(needs_classes=True):
        assert rank(birds, name).json()["type"] == "/problems/too-few-labels"
    handed = birds.post("/v1/projects/birds/pool/next", json={"annotator": "ann"})
    assert (handed.status_code, handed.json()["images"]) == (200, [])

    add(birds, "/labels/red/support", png("red"))
    add(birds, "/labels/blue/support", png("blue"))

    for name in strategies:
        assert ranked(birds, name) == []


def test_a_pool_without_embeddings_yet_has_nothing_to_rank(birds, png):
    add(birds, "/labels/red/support", png("red"))
    add(birds, "/labels/blue/support", png("blue"))
    first, second = add(birds, "/pool", png("red", 1), png("blue", 1))
    with db(birds).writing() as session:
        session.execute(delete(Embedding).where(Embedding.image_id == UUID(first)))

    for name in of_pool(needs_classes=False) + of_pool(needs_classes=True):
        assert ranked(birds, name) == [second]
    assert birds.get("/v1/projects/birds").json()["pool"] == 2
    assert birds.get(f"/v1/projects/birds/images/{first}/similar").status_code == 404


def test_one_label_ranks_by_what_needs_no_probabilities(birds, png):
    add(birds, "/labels/red/support", png("red"))
    pool = add(birds, "/pool", png("red", 1), png("blue", 1))

    for name in of_pool(needs_classes=False):
        assert sorted(ranked(birds, name)) == sorted(pool)
    for name in [*of_pool(needs_classes=True), "relabel"]:
        answer = rank(birds, name)
        assert (answer.status_code, answer.json()["type"]) == (409, "/problems/too-few-labels")
        assert "at least two" in answer.json()["detail"]


def test_one_shot_each_and_a_budget_beyond_the_pool(birds, png):
    add(birds, "/labels/red/support", png("red"))
    add(birds, "/labels/blue/support", png("blue"))
    pool = add(birds, "/pool", *(png(c, n) for n in range(1, 4) for c in ("red", "blue", "grey")))

    for name in of_pool(needs_classes=False) + of_pool(needs_classes=True):
        assert sorted(ranked(birds, name, budget=10_000)) == sorted(pool)
    assert ranked(birds, "relabel", budget=10_000) == []
    handed = birds.post("/v1/projects/birds/pool/next", json={"annotator": "a", "budget": 10_000})
    assert sorted(i["image"] for i in handed.json()["images"]) == sorted(pool)


def test_images_all_the_same_are_each_ranked_once(birds, png):
    labeled = add(birds, "/labels/red/support", *same(png, 2))
    labeled += add(birds, "/labels/blue/support", *same(png, 2, first=2))
    pool = add(birds, "/pool", *same(png, 5, first=4))

    for name in of_pool(needs_classes=False) + of_pool(needs_classes=True):
        assert sorted(ranked(birds, name, budget=5)) == sorted(pool)
    assert set(ranked(birds, "relabel")) <= set(labeled)  # the same with two labels
    similar = birds.get(f"/v1/projects/birds/images/{pool[0]}/similar").json()["images"]
    assert [s["cosine"] for s in similar] == pytest.approx([1] * 8, abs=1e-3)
    assert birds.get("/v1/projects/birds/report").status_code == 200


def test_a_label_that_is_removed_between_rank_and_label(birds, png):
    add(birds, "/labels/red/support", png("red"))
    add(birds, "/labels/blue/support", png("blue"))
    add(birds, "/pool", png("red", 1), png("blue", 1))
    image = ranked(birds, "margin")[0]
    path = f"/v1/projects/birds/images/{image}/label"

    birds.delete("/v1/projects/birds/labels/blue")
    refused = birds.put(path, json={"label": "blue", "annotator": "ann"})

    assert (refused.status_code, refused.json()["type"]) == (404, "/problems/label-not-found")
    assert "'blue'" in refused.json()["detail"]
    assert birds.get(f"/v1/projects/birds/images/{image}").json()["label"] is None
    assert rank(birds, "margin").json()["type"] == "/problems/too-few-labels"
    rare = {"strategy": {"name": "rare_search", "options": {"label": "blue"}}}
    assert birds.post(RANK, json=rare).status_code == 409
    assert len(ranked(birds, "adaptive")) == 3  # with the one that blue had
    assert birds.put(path, json={"label": "red", "annotator": "ann"}).status_code == 200


def test_an_embedding_that_is_not_finite_is_never_stored(request, png, monkeypatch):
    embed = Encoder.embed

    def broken(encoder, images):
        vectors = embed(encoder, images)
        red = images[:, 0].float().mean(dim=(1, 2)) > images[:, 2].float().mean(dim=(1, 2)) + 1
        return torch.where(red[:, None], torch.nan, vectors)

    monkeypatch.setattr(Encoder, "embed", broken)
    birds = request.getfixturevalue("birds")  # its encoder is loaded while it starts
    files = [("files", (f"{c}.png", png(c), "image/png")) for c in ("red", "blue")]

    answer = birds.post("/v1/projects/birds/pool", files=files)

    assert answer.status_code == 201, answer.text
    (failed,) = answer.json()["failed"]
    assert failed["filename"] == "red.png"
    assert "not finite" in failed["problem"]["detail"]
    assert birds.get("/v1/projects/birds").json()["pool"] == 1
    with db(birds).reading() as session:
        (vector,) = session.scalars(select(Embedding.vector))
    assert np.isfinite(vector).all()
    assert len(ranked(birds, "adaptive")) == 1
