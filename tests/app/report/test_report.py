"""How good a project is, and whether its labels are enough."""

import pytest

from tests.app.report.conftest import CHARTS, chart, report, support


def test_the_head_that_was_chosen_is_told_and_can_be_pinned(coloured):
    service, _ = coloured

    found = report(service)
    chosen = found["chosen"]
    service.patch("/v1/projects/birds", json={"head": {k: chosen[k] for k in ("name", "options")}})
    pinned = report(service)

    assert found["head"]["name"] == "auto"
    losses = chosen["log_losses"]
    assert chosen["name"] == "blend"
    assert set(losses) == {"blend", "mahalanobis", "ridge", "knn"}
    assert losses["blend"] < losses["knn"]
    assert pinned["chosen"] == {**chosen, "log_losses": {}}
    assert pinned["accuracy"] == found["accuracy"]


def test_labels_that_are_told_apart_get_a_good_report(coloured):
    service, _ = coloured

    found = report(service)

    assert found["support"] == found["judged"] == 24
    assert found["pool"] == 0
    assert found["accuracy"]["value"] == 1
    assert 0.8 < found["accuracy"]["low"] < 1
    assert [(one["label"], one["shots"]) for one in found["labels"]] == [("blue", 12), ("red", 12)]
    assert all(one["recall"]["value"] == one["precision"]["value"] == 1 for one in found["labels"])
    assert found["confusions"] == found["label_errors"] == found["contradictions"] == []
    assert sum(one["images"] for one in found["calibration"]["curve"]) == 24
    assert found["forecast"]["labels"] == 48
    assert found["forecast"]["accuracy"]["value"] == pytest.approx(1)
    assert found["forecast"]["accuracy"]["low"] < 1
    assert found["missing"] == []
    sizes = [one["labels"] for one in found["learning_curve"]]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == 23


def test_without_labels_nothing_is_made_up(birds):
    found = report(birds)

    assert found["support"] == found["judged"] == 0
    assert found["accuracy"] is found["forecast"] is found["calibration"] is found["unseen"] is None
    assert found["labels"] == found["learning_curve"] == []
    assert found["enough"]["answer"] is None
    assert "register some for at least two" in found["missing"][0]
    for name in CHARTS:
        _, text = chart(birds, name)
        assert "two" in text


def test_what_is_wanted_decides_what_is_enough(coloured):
    service, _ = coloured

    assert report(service, target=0.8)["enough"]["answer"] is True
    assert report(service, target=0.999)["enough"]["answer"] is False
    assert service.get("/v1/projects/birds/report?target=2").status_code == 422


def test_labels_given_one_by_one_tell_how_many_images_may_have_none(birds, png):
    support(birds, "red", *(png("red", n) for n in range(3)))
    files = [("files", png("blue", n)) for n in range(12)]
    pool = birds.post("/v1/projects/birds/pool", files=files).json()["images"]
    for name in ("blue", "rare"):
        birds.post("/v1/projects/birds/labels", json={"name": name})
    before = report(birds)["unseen"]

    for n, image in enumerate(pool):
        label = {0: "rare", 1: "red"}.get(n, "blue")
        path = f"/v1/projects/birds/images/{image['id']}/label"
        assert birds.put(path, json={"label": label}).status_code == 200

    unseen = report(birds)["unseen"]
    assert before is None  # support that was uploaded by label tells nothing
    assert unseen["value"] == pytest.approx(1 / 12)
    assert unseen["low"] <= unseen["value"] < unseen["high"]


def test_a_report_follows_what_changes(coloured, png):
    service, red = coloured
    before = report(service)

    service.delete(f"/v1/projects/birds/images/{red[0]}")
    service.patch("/v1/projects/birds/labels/red", json={"name": "crimson"})
    after = report(service)

    assert before["support"] == 24
    assert after["support"] == 23
    assert [one["label"] for one in after["labels"]] == ["blue", "crimson"]
    assert after["labels"][1]["recall"]["value"] == 1


def test_there_is_no_report_of_a_project_that_is_not_there(service):
    for path in ("report", *(f"report/{name}.svg" for name in CHARTS)):
        assert service.get(f"/v1/projects/nothing/{path}").status_code == 404
