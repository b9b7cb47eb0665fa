"""What the labels of a project say of themselves."""

import pytest

from tests.app.report.conftest import CHARTS, chart, report, support


def test_a_wrong_label_is_found_and_corrected_by_what_the_report_says(coloured, png):
    service, _ = coloured
    (wrong,) = support(service, "blue", png("red", 50))

    before = report(service)
    (error,) = before["label_errors"]
    path = f"/v1/projects/birds/images/{error['image']}/label"
    service.put(path, json={"label": error["suggested"]})
    after = report(service)

    assert error["image"] == wrong
    assert (error["label"], error["suggested"]) == ("blue", "red")
    assert error["probability"] > 0.5
    assert before["accuracy"]["value"] == pytest.approx(24 / 25)
    (confused,) = before["confusions"]
    assert confused == {
        "label": "blue",
        "taken_for": "red",
        "images": 1,
        "share": pytest.approx(1 / 13),
        "examples": [wrong],
    }
    assert after["label_errors"] == after["confusions"] == []
    assert after["accuracy"]["value"] == 1


def test_twins_with_different_labels_contradict_each_other(coloured, png):
    service, red = coloured
    (twin,) = support(service, "blue", png("red", 400))  # but for a pixel, the red image 0

    found = report(service)

    assert found["compared"] == 25
    assert found["contradictions"]
    best = found["contradictions"][0]
    assert twin in best["images"]
    assert set(best["images"]) - {twin} <= set(red)
    assert set(best["labels"]) == {"red", "blue"}
    assert best["cosine"] >= 0.98


def test_one_shot_each_cannot_be_judged(birds, png):
    support(birds, "red", png("red"))
    support(birds, "blue", png("blue"))

    found = report(birds)

    assert found["judged"] == 0
    assert found["accuracy"] is None
    assert "0 images can be judged" in found["missing"][0]
    assert found["missing"][0] in found["enough"]["reason"]
    assert [one["shots"] for one in found["labels"]] == [1, 1]
    assert "0 images can be judged" in chart(birds, "confusion")[1]


def test_a_label_with_one_image_is_named_and_takes_no_part_in_accuracy(coloured, png):
    service, _ = coloured
    support(service, "green", png("green"))

    found = report(service)

    assert found["support"] == 25
    assert found["judged"] == 24
    assert found["missing"] == ["label 'green' has one image, which no other can judge"]
    (green,) = [one for one in found["labels"] if one["label"] == "green"]
    assert green["recall"] is None


def test_few_labels_have_an_accuracy_but_no_forecast(birds, png):
    for colour in ("red", "blue"):
        support(birds, colour, *(png(colour, n) for n in range(5)))

    found = report(birds)

    assert found["accuracy"]["value"] == 1
    assert found["accuracy"]["low"] < 0.75
    assert found["forecast"] is None
    assert found["enough"]["answer"] is None
    assert "a forecast needs 20 images" in found["missing"][0]


def test_images_all_the_same_are_no_failure(birds, png):
    for label in ("red", "blue"):
        support(birds, label, *(png("white", n + 20 * (label == "red")) for n in range(12)))

    found = report(birds)

    assert found["accuracy"]["value"] <= 1
    assert found["enough"]["reason"]
    for name in CHARTS:
        chart(birds, name)


def test_accuracy_rests_on_what_was_drawn_at_random_once_there_is_enough(coloured, png):
    service, _ = coloured
    service.patch("/v1/projects/birds", json={"head": {"name": "cosine"}})
    files = [("files", png(colour, 40 + n)) for n in range(12) for colour in ("red", "blue")]
    ids = [
        image["id"]
        for image in service.post("/v1/projects/birds/pool", files=files).json()["images"]
    ]
    colour_of = dict(zip(ids, ["red", "blue"] * 12, strict=True))
    before = report(service)
    handed = service.post(
        "/v1/projects/birds/pool/next",
        json={
            "annotator": "ann",
            "budget": 24,
            "strategy": {"name": "adaptive", "options": {"uniform": 1}},
        },
    ).json()["images"]
    wrong = {"red": "blue", "blue": "red"}

    def answer(place, label):
        path = f"/v1/projects/birds/images/{handed[place]['image']}/label"
        assert service.put(path, json={"label": label, "annotator": "ann"}).status_code == 200

    for place in range(19):
        answer(place, colour_of[handed[place]["image"]])
    few = report(service)
    for place in range(19, 24):  # all of these are in the wrong place
        answer(place, wrong[colour_of[handed[place]["image"]]])
    many = report(service)

    assert before["rests_on"] == {"images": 24, "drawn": False}
    assert few["rests_on"] == {"images": 24 + 19, "drawn": False}
    assert many["rests_on"] == {"images": 24, "drawn": True}
    assert many["accuracy"]["value"] == pytest.approx(19 / 24)
    assert many["judged"] == 48
