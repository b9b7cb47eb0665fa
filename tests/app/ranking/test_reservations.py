"""Images are handed out to one annotator each, and come back."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.app.ranking.conftest import RELABEL, hand_out, ids, reservations


def test_two_annotators_never_hold_the_same_image(birds, pool):
    first, second = hand_out(birds, "ann"), hand_out(birds, "bob", 100)

    assert len(ids(first)) == 3
    assert sorted(ids(first) + ids(second)) == sorted(pool)
    assert hand_out(birds, "cyd")["images"] == []


def test_annotators_who_ask_at_once_share_the_pool_without_overlap(birds, pool):
    together = threading.Barrier(6)

    def ask(n: int) -> list[str]:
        together.wait()
        return ids(hand_out(birds, f"annotator {n}", 2))

    with ThreadPoolExecutor(6) as threads:
        handed = [image for images in threads.map(ask, range(6)) for image in images]

    assert sorted(handed) == sorted(pool)


def test_a_lapsed_lease_returns_the_image(birds, pool):
    handed = hand_out(birds, "ann", 12, lease_s=1)

    assert sorted(ids(handed)) == sorted(pool)
    assert hand_out(birds, "bob")["images"] == []
    time.sleep(1.1)
    assert sorted(ids(hand_out(birds, "bob", 12))) == sorted(pool)
    outcomes = [r.outcome for r in reservations(birds)]
    assert outcomes == ["lapsed"] * 12 + [None] * 12


def test_a_label_ends_a_reservation_and_its_propensity_is_kept(birds, pool):
    strategy = {"name": "adaptive", "options": {"uniform": 1}}
    handed = hand_out(birds, "ann", 2, strategy=strategy)
    image = ids(handed)[0]

    birds.put(f"/v1/projects/birds/images/{image}/label", json={"label": "red"})

    assert [i["propensity"] for i in handed["images"]] == pytest.approx([2 / 12] * 2)
    kept = {str(r.image_id): (r.outcome, r.propensity) for r in reservations(birds)}
    assert kept[image] == ("labeled", pytest.approx(2 / 12))
    assert kept[ids(handed)[1]] == (None, pytest.approx(2 / 12))
    birds.delete(f"/v1/projects/birds/images/{image}/label")
    assert image in ids(hand_out(birds, "bob", 12))


def test_a_skipped_image_goes_to_others_only(birds, pool):
    handed = ids(hand_out(birds, "ann", 12))
    skip = "/v1/projects/birds/pool/skip"

    foreign = birds.post(skip, json={"annotator": "bob", "images": handed[:2]}).json()
    own = birds.post(skip, json={"annotator": "ann", "images": handed[:2]}).json()

    assert (foreign["skipped"], own["skipped"]) == (0, 2)
    assert hand_out(birds, "ann", 12)["images"] == []
    assert sorted(ids(hand_out(birds, "bob", 12))) == sorted(handed[:2])


def test_ranking_reserves_nothing(birds, pool):
    ranked = birds.post("/v1/projects/birds/pool/rank", json={"budget": 12}).json()

    assert len(ranked["images"]) == 12
    assert reservations(birds) == []


def test_a_label_that_is_probably_wrong_is_handed_out_again(birds, mislabeled):
    body = {"strategy": RELABEL}

    ranked = birds.post("/v1/projects/birds/pool/rank", json=body).json()["images"]
    handed = hand_out(birds, "bob", strategy=RELABEL)["images"]

    assert ranked == handed
    assert [(i["image"], i["label"]) for i in handed] == [(mislabeled, "blue")]
    assert handed[0]["suggestions"][0]["label"] == "red"
    assert handed[0]["propensity"] is None
    assert hand_out(birds, "cyd", strategy=RELABEL)["images"] == []
    path = f"/v1/projects/birds/images/{mislabeled}/label"
    refused = birds.put(path, json={"label": "red", "annotator": "bob"})
    assert (refused.status_code, refused.json()["label"]) == (409, "blue")
    answer = {"label": "red", "annotator": "bob", "replace": True}
    assert birds.put(path, json=answer).json()["label"] == "red"
    assert birds.post("/v1/projects/birds/pool/rank", json=body).json()["images"] == []
    assert [r.outcome for r in reservations(birds)] == ["labeled"]


def test_a_label_that_was_confirmed_is_not_handed_out_again(birds, mislabeled):
    hand_out(birds, "bob", strategy=RELABEL)

    path = f"/v1/projects/birds/images/{mislabeled}/label"
    confirmed = birds.put(path, json={"label": "blue", "annotator": "bob"})

    assert confirmed.status_code == 200
    assert [r.outcome for r in reservations(birds)] == ["labeled"]
    assert hand_out(birds, "bob", strategy=RELABEL)["images"] == []
    assert (
        len(birds.get(f"/v1/projects/birds/images/{mislabeled}/annotations").json()["items"]) == 1
    )
