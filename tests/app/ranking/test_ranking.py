"""The pool is ranked, with what the head suggests for each image."""

import pytest
import torch

from app.prediction import predictor
from app.prediction.cache import PredictorCache
from app.ranking import ranking
from models.acquisition.batch import choose
from tests.app.ranking.conftest import hand_out, ids
from tests.interleavings import interleave
from tests.uploads import upload


def test_suggestions_come_with_each_image(birds, pool):
    handed = hand_out(birds, "ann", 12, strategy={"name": "margin"})

    for image in handed["images"]:
        labels = [s["label"] for s in image["suggestions"]]
        assert sorted(labels) == ["blue", "red"]
        assert sum(s["probability"] for s in image["suggestions"]) == pytest.approx(1, abs=1e-5)
        assert image["propensity"] is None


def test_without_labels_images_are_handed_out_without_suggestions(birds, png):
    upload(birds, "/pool", png("red"), png("blue"))

    handed = hand_out(birds, "ann", 5)

    assert len(ids(handed)) == 2
    assert [image["suggestions"] for image in handed["images"]] == [[], []]


def test_the_same_state_gives_the_same_ranking(birds, pool):
    def ranked():
        return birds.post("/v1/projects/birds/pool/rank", json={"budget": 6}).json()

    assert ranked() == ranked()


@pytest.mark.parametrize("strategy", ["adaptive", "margin"])
def test_a_label_that_comes_while_the_pool_is_ranked_is_in_the_next_answer(birds, pool, strategy):
    def rank():
        body = {"budget": 12, "strategy": {"name": strategy}}
        answer = birds.post("/v1/projects/birds/pool/rank", json=body)
        assert answer.status_code == 200, answer.text
        return {i["image"]: len(i["suggestions"]) for i in answer.json()["images"]}

    def label():
        path = f"/v1/projects/birds/images/{pool[0]}/label"
        return birds.put(path, json={"label": "purple"})

    birds.post("/v1/projects/birds/labels", json={"name": "purple"})

    ranked, labeled = interleave(PredictorCache, "fitted", rank, label)

    assert labeled.status_code == 200
    assert ranked == dict.fromkeys(pool, 2)
    assert rank() == dict.fromkeys(pool[1:], 3)


@pytest.mark.parametrize("labeled", [True, False])
def test_strategies_compare_images_less_the_mean_of_all(birds, png, labeled, monkeypatch):
    if labeled:
        upload(birds, "/labels/red/support", png("red"))
        upload(birds, "/labels/blue/support", png("blue"))
    upload(birds, "/pool", *(png("purple", 30 + n) for n in range(3)))
    pools = []

    def spy(strategy, pool, *args, **options):
        pools.append(pool)
        return choose(strategy, pool, *args, **options)

    monkeypatch.setattr(ranking, "choose", spy)

    hand_out(birds, "ann")

    (pool,) = pools
    assert torch.allclose(pool.mean, pool.embeddings.double().mean(dim=0).float(), atol=1e-6)


def test_the_skill_of_the_head_is_computed_once_for_the_labels_as_they_are(
    birds, pool, png, monkeypatch
):
    upload(birds, "/labels/red/support", png("red", 5))
    upload(birds, "/labels/blue/support", png("blue", 5))
    judged = []

    def half(correct, targets):
        judged.append(len(targets))
        return 0.5

    monkeypatch.setattr(predictor, "skill", half)

    def rank(strategy):
        body = {"budget": 3, "strategy": {"name": strategy}}
        return birds.post("/v1/projects/birds/pool/rank", json=body).json()["images"]

    rank("margin")
    assert judged == []
    assert rank("adaptive") == rank("adaptive")
    assert judged == [4]
    image = rank("adaptive")[0]["image"]
    birds.put(f"/v1/projects/birds/images/{image}/label", json={"label": "red"})
    rank("adaptive")
    assert judged == [4, 5]
