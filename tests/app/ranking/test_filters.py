"""What a query asks for decides which images are ranked."""

import time

import pytest

from tests.app.ranking.conftest import RELABEL, hand_out, ids
from tests.uploads import upload


def test_filters_choose_by_suggestion_and_confidence(birds, pool):
    head = {"name": "cosine", "options": {"temperature": 1.0}}  # less sure, so that they differ
    birds.patch("/v1/projects/birds", json={"head": head})
    everything = hand_out(birds, "ann", 12, lease_s=1)["images"]
    best = {i["image"]: i["suggestions"][0] for i in everything}
    time.sleep(1.1)

    def ranked(**where):
        body = {"budget": 100, "where": where}
        return set(ids(birds.post("/v1/projects/birds/pool/rank", json=body).json()))

    assert ranked(label="red") == {i for i, s in best.items() if s["label"] == "red"}
    assert ranked(label="green") == set()
    probabilities = [s["probability"] for s in best.values()]
    middle = (min(probabilities) + max(probabilities)) / 2
    assert max(probabilities) - min(probabilities) > 1e-3
    above = {i for i, s in best.items() if s["probability"] >= middle}
    assert ranked(min_confidence=middle) == above
    assert ranked(max_confidence=middle) == set(best) - above


def test_filters_choose_by_upload_time(birds, pool, png):
    time.sleep(0.01)
    late = upload(birds, "/pool", png("green")).json()["images"][0]["id"]
    moment = birds.get(f"/v1/projects/birds/images/{late}").json()["created_at"]

    def ranked(**where):
        body = {"budget": 100, "where": where}
        return sorted(ids(birds.post("/v1/projects/birds/pool/rank", json=body).json()))

    assert ranked(uploaded_after=moment) == [late]
    assert ranked(uploaded_before=moment) == sorted(pool)
    assert ranked(uploaded_after=moment, uploaded_before="2000-01-01T00:00:00Z") == []
    assert ranked(uploaded_after="2100-01-01T00:00:00Z") == []
    assert ranked(uploaded_before="2100-01-01T00:00:00Z") == sorted([*pool, late])


def test_filters_choose_named_images(birds, pool):
    labeled = birds.get("/v1/projects/birds/images?state=support").json()["items"][0]["id"]
    strange = "01890000-0000-7000-8000-000000000000"

    def ranked(**where):
        body = {"budget": 100, "where": where}
        return set(ids(birds.post("/v1/projects/birds/pool/rank", json=body).json()))

    some = set(list(pool)[:3])
    assert ranked(images=[*some, labeled, strange]) == some
    assert ranked(images=[]) == set()
    handed = hand_out(birds, "ann", 12, where={"images": list(some)})
    assert set(ids(handed)) == some


def test_near_duplicates_are_left_out(birds, pool):
    body = {"budget": 12, "max_cosine": 0.999, "strategy": {"name": "random"}}

    distinct = birds.post("/v1/projects/birds/pool/rank", json=body).json()

    assert 0 <= len(distinct["images"]) < 12


@pytest.mark.parametrize(
    "wish", [{"max_cosine": 0.9}, {"balanced": True}, {"where": {"label": "red"}}]
)
def test_what_is_said_of_images_without_a_label_is_refused_for_others(birds, mislabeled, wish):
    answer = birds.post("/v1/projects/birds/pool/rank", json={"strategy": RELABEL, **wish})

    assert answer.status_code == 409
    assert answer.json()["type"] == "/problems/strategy-refused"
    late = {"strategy": RELABEL, "where": {"uploaded_after": "2100-01-01T00:00:00Z"}}
    assert birds.post("/v1/projects/birds/pool/rank", json=late).json()["images"] == []
