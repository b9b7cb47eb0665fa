"""Label Studio's tasks."""

import json

import pytest

from tests.app.exchange.formats.conftest import export, facts, images, import_


def choices(*labels) -> dict:
    return {
        "from_name": "label",
        "to_name": "image",
        "type": "choices",
        "value": {"choices": list(labels)},
    }


def tasks(*found) -> bytes:
    return json.dumps(found).encode()


def test_a_task_has_its_label_and_its_suggestion_as_choices(shared, few):
    options = {"from_name": "kind", "to_name": "picture"}

    made = json.loads(export(shared, few, "label_studio", options, predictions=True))

    image = images(shared, few)[0]
    result = choices("red") | {"from_name": "kind", "to_name": "picture"}
    assert made[0]["annotations"] == [{"result": [result]}]
    assert made[0]["data"]["image"].endswith(f"/images/{image['id']}/content")
    assert made[0]["predictions"] == []
    (suggested,) = made[3]["predictions"]
    assert made[3]["annotations"] == []
    assert suggested["score"] == made[3]["meta"]["confidence"]
    assert suggested["result"][0]["value"]["choices"] == [made[3]["meta"]["suggestion"]]


@pytest.mark.parametrize(
    "image",
    ["/data/upload/1/cf538e5d-3.png", "/data/local-files/?d=photos/3.png", "s3://bucket/3.png"],
)
def test_an_export_of_label_studio_names_images_in_its_own_ways(shared, few, image):
    task = {
        "id": 7,
        "data": {"image": image},
        "annotations": [
            {"was_cancelled": False, "result": [choices("red")]},
            {"was_cancelled": False, "result": [choices("green")]},
            {"was_cancelled": True, "result": [choices("blue")]},
        ],
        "predictions": [{"result": [choices("blue")]}],
    }

    made = import_(shared, tasks(task), few)

    assert (made["format"], made["failed"]) == ("label_studio", [])
    assert images(shared, few)[3]["label"] == "green"


def test_a_task_that_cannot_be_used_fails_alone(shared, few):
    made = import_(
        shared,
        tasks(
            7,
            {"data": {"image": "2.png"}, "annotations": [{"result": [choices("a", "b")]}]},
            {"data": {"image": "1.png"}, "annotations": [{"result": [{"value": {"x": 1}}]}, 3]},
            {"data": {"image": "3.png"}, "annotations": [{"result": [choices("green")]}]},
        ),
        few,
    )

    assert [f["position"] for f in made["failed"]] == [0, 1]
    labels = {fact[1]: fact[5] for fact in facts(shared, few)}
    assert labels == {"0.png": "red", "1.png": "red", "2.png": "blue", "3.png": "green"}


def test_suggestions_are_not_labels(shared, few, copy):
    options = {"images": True}

    import_(shared, export(shared, few, "label_studio", options, predictions=True), copy)

    assert [image["label"] for image in images(shared, copy)] == ["red", "red", "blue", None]
