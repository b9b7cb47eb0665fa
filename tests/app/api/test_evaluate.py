"""How heads and encoder versions do on episodes, over HTTP."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from app.problems import Overloaded
from app.report import evaluation
from app.sql.tables import TrainingImage
from models.heads.kinds import heads
from tests import databases
from tests.app.report.conftest import support

database_url = databases.each
PATH = "/v1/projects/birds/evaluate"
COSINE = {"name": "cosine", "options": {"temperature": 0.1}}
SMALL = {
    "ways": 2,
    "shots": [1, 2],
    "queries": 2,
    "episodes": 20,
    "heads": [COSINE],
    "seconds": 60,
}


def evaluate(service, **options):
    answer = service.post(PATH, json=SMALL | options)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(service, status=422, **options):
    answer = service.post(PATH, json=SMALL | options)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()


@pytest.fixture
def colours(birds, png):
    """Three labels of eight images each, one of two, and one without any."""
    for label in ("red", "blue", "lime"):
        support(birds, label, *(png(label, n) for n in range(8)))
    support(birds, "pink", png("pink"), png("pink", 1))
    birds.post("/v1/projects/birds/labels", json={"name": "none"})
    birds.post("/v1/projects/birds/pool", files=[("files", png("purple"))])
    return birds


def test_each_head_is_judged_at_each_number_of_shots_with_its_intervals(colours):
    choices = [{"name": name} for name in heads]

    answer = evaluate(colours, heads=choices, episodes=8)

    assert [model["head"]["name"] for model in answer["models"]] == list(heads)
    assert answer["labels"] == ["blue", "lime", "red"]
    assert answer["left_out"] == [{"label": "none", "images": 0}, {"label": "pink", "images": 2}]
    assert (answer["images"], answer["done"], answer["missing"]) == (24, 8, [])
    assert [part["shots"] for part in answer["shots"]] == [1, 2]
    for part in answer["shots"]:
        assert part["separate_episodes"] >= 2
        assert [figures["model"] for figures in part["models"]] == list(range(len(heads)))
        assert len(part["differences"]) == len(heads) * (len(heads) - 1) // 2
        for figures in part["models"]:
            for name in ("over_episodes", "over_images", "over_labels"):
                interval = figures[name]
                assert 0 <= interval["low"] <= interval["value"] <= interval["high"] <= 1
            assert 0 <= figures["calibration_error"] <= 1
            assert [label["label"] for label in figures["labels"]] == answer["labels"]


def test_without_a_wish_it_is_the_head_of_the_project_on_the_version_that_serves(colours):
    project = colours.get("/v1/projects/birds").json()

    (model,) = evaluate(colours, heads=None, versions=None, episodes=2)["models"]

    assert model == {
        "encoder": project["encoder"]["id"],
        "head": project["head"],
        "learned_images": 0,
    }


def test_the_same_seed_draws_the_same_episodes_whatever_else_is_judged(colours):
    def accuracies(**options):
        parts = evaluate(colours, ways=[2, 3], **options)["shots"]
        return [part["models"][0] for part in parts]

    first = accuracies()

    for part, again in zip(first, accuracies(heads=[COSINE, {"name": "knn"}]), strict=True):
        for interval in ("over_episodes", "over_images"):
            assert again[interval] == pytest.approx(part[interval])
    assert accuracies(seed=1) != first


def test_only_the_labels_asked_for_take_part_by_name_or_id(colours):
    listed = colours.get("/v1/projects/birds/labels").json()["items"]
    red = next(label["id"] for label in listed if label["name"] == "red")

    answer = evaluate(colours, labels=[red, "blue"])

    assert answer["labels"] == ["blue", "red"]
    assert answer["left_out"] == []
    assert any("over_labels" in reason for reason in answer["missing"])


def test_versions_are_judged_on_the_same_images(colours, do):
    encoders = "/v1/projects/birds/encoders"
    served = colours.get(encoders).json()["items"][-1]["id"]
    weights = colours.get(f"{encoders}/{served}/weights").content
    binary = {"Content-Type": "application/octet-stream"}
    copy = colours.post(encoders, content=weights, headers=binary).json()["id"]

    problem = refused(colours, versions=[served, copy])
    colours.post(f"{encoders}/{copy}/promote")
    do(colours)
    answer = evaluate(colours, versions=[served, copy])

    assert problem["type"] == "/problems/not-embedded"
    assert problem["missing"] == 26
    assert copy in problem["detail"]
    assert [model["encoder"] for model in answer["models"]] == [served, copy]
    for part in answer["shots"]:  # of the same weights
        (difference,) = part["differences"]
        assert difference["over_images"] == {"value": 0, "low": 0, "high": 0}


def test_images_that_a_version_learned_from_are_counted(colours):
    image = colours.get("/v1/projects/birds/images?label=red").json()["items"][0]
    encoder = UUID(colours.get("/v1/projects/birds").json()["encoder"]["id"])
    with colours.app.state.parts.db.writing() as session:
        session.add_all(
            TrainingImage(
                encoder_id=encoder, image_id=seen, label_id=uuid4(), label="red", predicted=[]
            )
            for seen in (UUID(image["id"]), uuid4())  # the second was deleted since
        )

    assert evaluate(colours, episodes=2)["models"][0]["learned_images"] == 1


# What a request must not be, and what the answer says.
BAD: list[tuple[dict[str, Any], str]] = [
    ({"ways": 1}, "ways"),
    ({"ways": [5, 2]}, "from less to more, got [5, 2]"),
    ({"ways": [2, 3, 4]}, "ways"),
    ({"ways": 101}, "ways"),
    ({"queries": 0}, "queries"),
    ({"shots": []}, "shots"),
    ({"shots": [0]}, "shots"),
    ({"shots": [1, 1]}, "shots must differ"),
    ({"episodes": 10**9}, "episodes"),
    ({"episodes": 1}, "episodes"),
    ({"seconds": 0}, "seconds"),
    ({"seconds": 61}, "seconds"),
    ({"seed": -1}, "seed"),
    ({"ways": 100, "shots": [6]}, "600 images of an episode; at most 500"),
    ({"ways": 20, "queries": 51}, "1020 images of an episode; at most 1000"),
    ({"heads": [{"name": "astrology"}]}, "cosine"),
    ({"heads": [{"name": "ridge", "options": {"features": 20_000}}]}, "at most 2000"),
    ({"heads": []}, "heads"),
    ({"labels": ["red"]}, "labels"),
    ({"labels": ["red", "red"]}, "labels must differ"),
    ({"versions": ["x"]}, "versions"),
    ({"epsiodes": 5}, "epsiodes"),
]


@databases.only_sqlite
def test_what_cannot_be_is_refused_with_what_would_work(birds):
    for options, says in BAD:
        assert says in refused(birds, **options)["detail"], options


def test_unknown_labels_and_versions_are_named(colours):
    assert "'heron'" in refused(colours, 404, labels=["red", "heron"])["detail"]
    version = str(uuid4())
    assert version in refused(colours, 404, versions=[version])["detail"]
    assert colours.post("/v1/projects/fish/evaluate", json={}).status_code == 404


def test_too_few_labels_or_images_say_how_many_are_missing(colours):
    problem = refused(colours, ways=4)

    assert problem["type"] == "/problems/labels-do-not-suffice"
    assert problem["missing"] == 1
    assert "4 labels need as many with 4 images each, and there are 3" in problem["detail"]
    assert problem["left_out"] == [
        {"label": "none", "images": 0, "missing": 4},
        {"label": "pink", "images": 2, "missing": 2},
    ]
    assert refused(colours, queries=90)["missing"] == 2


def test_a_project_without_images_has_too_few(birds):
    assert refused(birds)["missing"] == 2


@databases.only_sqlite
def test_when_time_is_over_what_is_done_is_answered(colours):
    evaluations = colours.app.state.parts.evaluations
    ticks = iter(range(10_000))
    object.__setattr__(evaluations, "clock", lambda: float(next(ticks)))

    answer = evaluate(colours, heads=[{"name": "knn"}], shots=[1], episodes=50, seconds=10)

    # A tick is a head in an episode of either set: the eleventh is over.
    assert answer["done"] == 5
    assert answer["shots"][0]["separate_episodes"] == 5
    assert "5 of 50 episodes were done in 10 s" in answer["missing"][0]


@databases.only_sqlite
def test_before_an_episode_is_done_figures_are_null(colours):
    evaluations = colours.app.state.parts.evaluations
    ticks = iter((0.0, 100.0))
    object.__setattr__(evaluations, "clock", lambda: next(ticks))

    answer = evaluate(colours)

    assert answer["done"] == 0
    assert answer["shots"][0]["models"][0]["over_episodes"] is None


@databases.only_sqlite
def test_a_service_that_stops_answers_with_what_there_is(colours):
    colours.app.state.parts.stopping = lambda: True

    assert evaluate(colours)["done"] == 0


@databases.only_sqlite
def test_more_evaluations_than_may_run_are_told_to_come_again(colours):
    evaluations = colours.app.state.parts.evaluations
    for _ in range(evaluation.AT_ONCE):
        assert evaluations._turns.acquire(blocking=False)

    answer = colours.post(PATH, json=SMALL)

    assert answer.status_code == Overloaded.status
    assert int(answer.headers["retry-after"]) == 60
    evaluations._turns.release()
    assert evaluate(colours)["done"] == 20
