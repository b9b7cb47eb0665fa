"""From support images to predictions and suggestions, over HTTP."""

import pytest

from tests import databases
from tests.uploads import upload

database_url = databases.each


def test_two_labels_are_told_apart(birds, png):
    red = upload(birds, "/labels/red/support", png("red"), png("red", 1))
    upload(birds, "/labels/blue/support", png("blue"), png("blue", 1))

    answer = upload(birds, "/classify", png("red", 2), png("blue", 2)).json()

    assert red.status_code == 201
    assert red.json()["label"]["shots"] == 2
    assert [p["label"] for p in answer["predictions"]] == ["red", "blue"]
    assert answer["encoder"] == birds.get("/v1/projects/birds").json()["encoder"]["id"]


def test_probabilities_sum_to_one_over_all_labels_and_come_likeliest_first(birds, png):
    for colour in ("red", "blue", "green"):
        upload(birds, f"/labels/{colour}/support", png(colour))

    prediction = upload(birds, "/classify", png("red", 5), top_k=3).json()["predictions"][0]
    two = upload(birds, "/classify", png("red", 5), top_k=2).json()["predictions"][0]

    probabilities = [p["probability"] for p in prediction["probabilities"]]
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert probabilities == sorted(probabilities, reverse=True)
    assert two["probabilities"] == prediction["probabilities"][:2]
    assert all(-1 <= p["cosine"] <= 1 for p in prediction["probabilities"])


def test_the_nearest_support_images_are_named(birds, png):
    red = upload(birds, "/labels/red/support", png("red")).json()["images"][0]
    upload(birds, "/labels/blue/support", png("blue"))

    nearest = upload(birds, "/classify", png("red"), nearest=1).json()["predictions"][0]["nearest"]

    assert [n["image"] for n in nearest] == [red["id"]]
    assert nearest[0]["cosine"] == pytest.approx(1, abs=1e-3)


def test_a_label_added_a_moment_ago_takes_part(birds, png):
    upload(birds, "/labels/red/support", png("red"))
    upload(birds, "/labels/blue/support", png("blue"))
    upload(birds, "/classify", png("green", 1))
    upload(birds, "/labels/green/support", png("green"))

    label = upload(birds, "/classify", png("green", 1)).json()["predictions"][0]["label"]

    assert label == "green"


def centroid_cosines(service, content):
    answer = upload(service, "/classify", content).json()["predictions"][0]
    return {p["label"]: p["cosine"] for p in answer["probabilities"]}


def test_after_a_removal_the_centroid_is_exactly_what_it_would_have_been(birds, png):
    upload(birds, "/labels/red/support", png("red"), png("red", 1))
    upload(birds, "/labels/blue/support", png("blue"))
    before = centroid_cosines(birds, png("purple"))

    extra = upload(birds, "/labels/red/support", png("yellow")).json()["images"][0]["id"]
    moved = centroid_cosines(birds, png("purple"))
    birds.delete(f"/v1/projects/birds/images/{extra}")

    assert moved != before
    assert centroid_cosines(birds, png("purple")) == before


def test_taking_a_label_back_removes_the_shot(birds, png):
    head = {"name": "cosine"}  # not centred: the image stays in the pool
    birds.patch("/v1/projects/birds", json={"head": head})
    upload(birds, "/labels/red/support", png("red"))
    upload(birds, "/labels/blue/support", png("blue"))
    before = centroid_cosines(birds, png("purple"))

    extra = upload(birds, "/labels/red/support", png("yellow")).json()["images"][0]["id"]
    birds.delete(f"/v1/projects/birds/images/{extra}/label")

    assert centroid_cosines(birds, png("purple")) == before


def test_one_label_is_not_enough_to_classify(birds, png):
    upload(birds, "/labels/red/support", png("red"))

    response = upload(birds, "/classify", png("red"))

    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json() == {
        "type": "/problems/too-few-labels",
        "title": "Classification needs support images in at least two labels",
        "status": 409,
        "detail": "1 label(s) have support images; register some for at least two",
    }


@pytest.mark.parametrize("name", ["random", "least_confidence", "margin", "entropy"])
def test_ranks_the_pool(birds, png, name):
    upload(birds, "/labels/red/support", png("red"))
    upload(birds, "/labels/blue/support", png("blue"))
    added = upload(birds, "/pool", png("red", 3), png("purple"), png("blue", 3)).json()["images"]

    answer = birds.post(
        "/v1/projects/birds/pool/rank", json={"strategy": {"name": name}, "budget": 2}
    ).json()

    ranked = [image["image"] for image in answer["images"]]
    assert len(ranked) == 2
    assert set(ranked) <= {image["id"] for image in added}
    if name != "random":
        assert ranked[0] == added[1]["id"]  # purple lies between red and blue


def test_a_labeled_image_leaves_the_ranking_and_an_unlabeled_one_returns(birds, png):
    upload(birds, "/labels/red/support", png("red"))
    upload(birds, "/labels/blue/support", png("blue"))
    image = upload(birds, "/pool", png("purple")).json()["images"][0]["id"]

    def ranked():
        answer = birds.post("/v1/projects/birds/pool/rank", json={}).json()
        return [i["image"] for i in answer["images"]]

    assert ranked() == [image]
    birds.put(f"/v1/projects/birds/images/{image}/label", json={"label": "red"})
    assert ranked() == []
    birds.delete(f"/v1/projects/birds/images/{image}/label")
    assert ranked() == [image]


def test_random_needs_no_labels_and_margin_does(birds, png):
    upload(birds, "/pool", png("red"))

    def rank(name):
        return birds.post("/v1/projects/birds/pool/rank", json={"strategy": {"name": name}})

    assert len(rank("random").json()["images"]) == 1
    assert len(rank("adaptive").json()["images"]) == 1
    assert rank("margin").status_code == 409


def test_the_centred_head_uses_the_pool(service, png):
    head = {"name": "cosine", "options": {"centered": True}}
    service.post("/v1/projects", json={"name": "birds", "head": head})
    upload(service, "/labels/red/support", png("red"))
    upload(service, "/labels/blue/support", png("blue"))
    before = centroid_cosines(service, png("purple"))

    upload(service, "/pool", png("green"), png("yellow"))

    assert before["red"] == pytest.approx(-before["blue"], abs=1e-3)  # symmetric about the mean
    assert centroid_cosines(service, png("purple")) != before
