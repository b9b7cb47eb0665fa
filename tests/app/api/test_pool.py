"""Handing out images of the pool."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from sqlalchemy import select

import app.prediction.predictor
import app.ranking.ranking
from app.sql.tables import Reservation
from models.acquisition.batch import choose

NEXT = "/v1/projects/birds/pool/next"


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(settings, request):
    """The same behaviour is promised on both databases."""
    if request.param == "sqlite":
        return settings
    return settings.model_copy(update={"database_url": request.getfixturevalue("postgresql")()})


def upload(service, path, *contents):
    files = [("files", (f"{n}.png", content, "image/png")) for n, content in enumerate(contents)]
    return service.post(f"/v1/projects/birds{path}", files=files).json()["images"]


@pytest.fixture
def pool(birds, png):
    """Two labels with support, and twelve images in the pool; their ids."""
    upload(birds, "/labels/red/support", png("red"))
    upload(birds, "/labels/blue/support", png("blue"))
    contents = [png(colour, 30 + n) for n in range(4) for colour in ("red", "purple", "blue")]
    return [image["id"] for image in upload(birds, "/pool", *contents)]


def hand_out(service, annotator, budget=3, **more):
    answer = service.post(NEXT, json={"annotator": annotator, "budget": budget, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(answer):
    return [image["image"] for image in answer["images"]]


def reservations(service):
    with service.app.state.parts.db.reading() as session:
        return list(session.scalars(select(Reservation).order_by(Reservation.id)))


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
    late = upload(birds, "/pool", png("green"))[0]["id"]
    moment = birds.get(f"/v1/projects/birds/images/{late}").json()["created_at"]

    def ranked(**where):
        body = {"budget": 100, "where": where}
        return ids(birds.post("/v1/projects/birds/pool/rank", json=body).json())

    assert ranked(uploaded_after=f"{moment[:19]}Z", uploaded_before="2000-01-01T00:00:00Z") == []
    assert late in ranked(uploaded_after=f"{moment[:19]}Z")
    assert ranked(uploaded_after="2100-01-01T00:00:00Z") == []
    assert sorted(ranked(uploaded_before="2100-01-01T00:00:00Z")) == sorted([*pool, late])


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


def test_ranking_reserves_nothing(birds, pool):
    ranked = birds.post("/v1/projects/birds/pool/rank", json={"budget": 12}).json()

    assert len(ranked["images"]) == 12
    assert reservations(birds) == []


def test_the_same_state_gives_the_same_ranking(birds, pool):
    def ranked():
        return birds.post("/v1/projects/birds/pool/rank", json={"budget": 6}).json()

    assert ranked() == ranked()


def test_a_second_annotator_learns_what_the_first_said(birds, pool):
    path = f"/v1/projects/birds/images/{pool[0]}/label"
    birds.put(path, json={"label": "red", "annotator": "ann"})

    refused = birds.put(path, json={"label": "blue", "annotator": "bob"})
    agreed = birds.put(path, json={"label": "red", "annotator": "bob"})
    corrected = birds.put(path, json={"label": "blue", "annotator": "ann"})
    birds.put(path, json={"label": "red", "annotator": "ann"})
    replaced = birds.put(path, json={"label": "blue", "annotator": "bob", "replace": True})

    assert refused.status_code == 409
    problem = refused.json()
    assert problem["type"] == "/problems/already-labeled"
    assert (problem["label"], problem["annotator"]) == ("red", "ann")
    assert "replace: true" in problem["detail"]
    assert (agreed.status_code, corrected.status_code) == (200, 200)
    assert replaced.json()["label"] == "blue"


def test_of_many_who_label_an_image_at_once_one_wins(birds, pool):
    path = f"/v1/projects/birds/images/{pool[0]}/label"
    together = threading.Barrier(4)

    def label(n: int) -> int:
        together.wait()
        body = {"label": ("red", "blue")[n % 2], "annotator": f"annotator {n}"}
        return birds.put(path, json=body).status_code

    with ThreadPoolExecutor(4) as threads:
        statuses = sorted(threads.map(label, range(4)))

    assert statuses == [200, 200, 409, 409]  # the other with the same label agrees


def test_among_many_labels_the_contested_one_fails_alone(birds, pool):
    birds.put(
        f"/v1/projects/birds/images/{pool[0]}/label", json={"label": "red", "annotator": "ann"}
    )

    changes = [{"image": i, "label": "blue", "annotator": "bob"} for i in pool[:2]]
    answer = birds.post("/v1/projects/birds/annotations", json={"annotations": changes}).json()

    assert answer["applied"] == 1
    assert answer["failed"][0]["problem"]["type"] == "/problems/already-labeled"


def test_similar_images_come_closest_first_without_the_image_itself(birds, pool):
    path = f"/v1/projects/birds/images/{pool[0]}/similar"

    similar = birds.get(path, params={"limit": 5}).json()["images"]
    whole = birds.get(path, params={"limit": 1000}).json()["images"]

    cosines = [s["cosine"] for s in whole]
    assert cosines == sorted(cosines, reverse=True)
    assert similar == whole[:5]
    assert len(whole) == 13
    assert pool[0] not in [s["image"] for s in whole]
    assert {s["label"] for s in whole} == {None, "red", "blue"}
    birds.delete(f"/v1/projects/birds/images/{similar[0]['image']}")
    assert birds.get(path, params={"limit": 5}).json()["images"][0] == whole[1]


def test_similar_to_an_image_that_is_not_there(birds, pool):
    nobody = "01890a5d-ac96-774b-bcce-b302099a8057"

    assert birds.get(f"/v1/projects/birds/images/{nobody}/similar").status_code == 404


@pytest.mark.parametrize("labeled", [True, False])
def test_strategies_compare_images_less_the_mean_of_all(birds, png, labeled, monkeypatch):
    if labeled:
        upload(birds, "/labels/red/support", png("red"))
        upload(birds, "/labels/blue/support", png("blue"))
    upload(birds, "/pool", *(png("purple", 30 + n) for n in range(3)))
    asked = []
    monkeypatch.setattr(
        app.ranking.ranking,
        "choose",
        lambda *given, **more: asked.append(given[1]) or choose(*given, **more),
    )

    hand_out(birds, "ann")

    [pool] = asked
    assert torch.allclose(pool.mean, pool.embeddings.double().mean(dim=0).float(), atol=1e-6)


def test_the_skill_of_the_head_is_computed_once_for_the_labels_as_they_are(
    birds, pool, png, monkeypatch
):
    upload(birds, "/labels/red/support", png("red", 5))
    upload(birds, "/labels/blue/support", png("blue", 5))
    asked = []
    monkeypatch.setattr(
        app.prediction.predictor, "skill", lambda right, targets: asked.append(len(targets)) or 0.5
    )

    def rank(strategy):
        body = {"budget": 3, "strategy": {"name": strategy}}
        return birds.post("/v1/projects/birds/pool/rank", json=body).json()["images"]

    rank("margin")
    assert asked == []
    assert rank("adaptive") == rank("adaptive")
    assert asked == [4]
    image = rank("adaptive")[0]["image"]
    birds.put(f"/v1/projects/birds/images/{image}/label", json={"label": "red"})
    rank("adaptive")
    assert asked == [4, 5]


@pytest.fixture
def mislabeled(birds, png):
    """Twelve images of each label, one red one labeled blue by ann; its id."""
    upload(birds, "/labels/red/support", *(png("red", n) for n in range(12)))
    upload(birds, "/labels/blue/support", *(png("blue", n) for n in range(12)))
    wrong = upload(birds, "/pool", png("red", 50), png("red", 51))[0]["id"]
    path = f"/v1/projects/birds/images/{wrong}/label"
    assert birds.put(path, json={"label": "blue", "annotator": "ann"}).status_code == 200
    return wrong


RELABEL = {"name": "relabel"}


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


@pytest.mark.parametrize(
    "wish", [{"max_cosine": 0.9}, {"balanced": True}, {"where": {"label": "red"}}]
)
def test_what_is_said_of_images_without_a_label_is_refused_for_others(birds, mislabeled, wish):
    answer = birds.post("/v1/projects/birds/pool/rank", json={"strategy": RELABEL, **wish})

    assert answer.status_code == 409
    assert answer.json()["type"] == "/problems/strategy-refused"
    late = {"strategy": RELABEL, "where": {"uploaded_after": "2100-01-01T00:00:00Z"}}
    assert birds.post("/v1/projects/birds/pool/rank", json=late).json()["images"] == []
