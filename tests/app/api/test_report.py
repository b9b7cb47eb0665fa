"""How good a project is, over HTTP."""

from xml.etree import ElementTree

import pytest

CHARTS = ("learning-curve", "confusion", "map")


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(settings, request):
    """The same behaviour is promised on both databases."""
    if request.param == "sqlite":
        return settings
    return settings.model_copy(update={"database_url": request.getfixturevalue("postgresql")()})


def support(service, label, *contents):
    files = [("files", (f"{n}.png", content, "image/png")) for n, content in enumerate(contents)]
    answer = service.post(f"/v1/projects/birds/labels/{label}/support", files=files)
    return [image["id"] for image in answer.json()["images"]]


def report(service, **params):
    answer = service.get("/v1/projects/birds/report", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def chart(service, name):
    answer = service.get(f"/v1/projects/birds/report/{name}.svg")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("image/svg+xml")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    return ElementTree.fromstring(answer.text), answer.text


@pytest.fixture
def coloured(birds, png):
    """Twelve red and twelve blue support images, and the ids of the red ones."""
    red = support(birds, "red", *(png("red", n) for n in range(12)))
    support(birds, "blue", *(png("blue", n) for n in range(12)))
    return birds, red


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


def test_charts_show_the_labels_and_escape_them(birds, png):
    names = ("a<b>&c", "plain")
    for name, colour in zip(names, ("red", "blue"), strict=True):
        support(birds, name, *(png(colour, n) for n in range(12)))
    birds.post("/v1/projects/birds/pool", files=[("files", png("purple"))])

    for name in CHARTS:
        root, text = chart(birds, name)
        assert root.find("{http://www.w3.org/2000/svg}title").text
        assert "<b>" not in text
        assert "script" not in text
    assert "a&lt;b&gt;&amp;c" in chart(birds, "confusion")[1]
    assert "a&lt;b&gt;&amp;c" in chart(birds, "map")[1]


def test_a_map_says_where_each_image_lies_and_what_is_known_of_it(coloured, png):
    service, red = coloured
    added = service.post("/v1/projects/birds/pool", files=[("files", png("red", 99))])
    new = added.json()["images"][0]["id"]

    found = service.get("/v1/projects/birds/report/map").json()

    points = {point["image"]: point for point in found["points"]}
    assert found["images"] == len(points) == 25
    assert 0 < found["explained"][1] <= found["explained"][0] <= 1
    assert {points[image]["label"] for image in red} == {"red"}
    assert {points[image]["confidence"] for image in red} == {None}
    assert points[new]["label"] == "red"
    assert 0.5 < points[new]["confidence"] <= 1
    others = [one["x"] for one in points.values() if one["label"] == "blue"]
    assert (min(others) > points[new]["x"]) or (max(others) < points[new]["x"])


def test_a_map_of_nothing_is_empty(birds):
    assert birds.get("/v1/projects/birds/report/map").json() == {
        "images": 0,
        "explained": [0, 0],
        "points": [],
    }


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
