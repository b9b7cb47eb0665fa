"""Labeling interfaces are read, or refused with the reason."""

import pytest

from tests.app.integrations.label_studio.conftest import (
    AT,
    CONFIG,
    annotate,
    annotation,
    chosen,
    labels,
    say,
    set_up,
    upload,
)


def test_setup_makes_the_labels_of_the_first_choices_over_an_image(backend):
    assert backend.get(f"{AT}/health").json()["status"] == "UP"

    version = set_up(backend).json()["model_version"]

    assert set_up(backend).json()["model_version"] == version
    assert backend.get(f"{AT}/versions").json() == {"versions": [version]}
    names = [i["name"] for i in backend.get("/v1/projects/birds/labels").json()["items"]]
    assert sorted(names) == ["blue", "red"]


def test_other_choices_are_taken_when_they_are_named(backend):
    assert set_up(backend, extra={"choices": "shape"}).status_code == 200

    names = [i["name"] for i in backend.get("/v1/projects/birds/labels").json()["items"]]
    assert names == ["round"]
    say(
        backend,
        "ANNOTATION_CREATED",
        annotation={
            "id": 1,
            "task": 1,
            "result": [chosen("colour", "red"), chosen("shape", "round")],
        },
        task=upload(1, "red1.png"),
    )
    assert labels(backend) == {"red1.png": "round"}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("<View>", "not XML"),
        ("<View/>", "no Choices over an Image"),
        ("<View><Text name='t'/><Choices name='c' toName='t'/></View>", "no Choices over an Image"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><View>&a;</View>", "document type"),
        (CONFIG.replace('value="red"', 'value="red/green"'), "slashes"),
    ],
)
def test_an_interface_that_cannot_be_used_is_told(backend, config, reason):
    answer = set_up(backend, config)

    assert answer.status_code == 422
    assert reason in answer.json()["detail"]


def test_choices_that_are_not_there_are_told_with_those_that_are(backend):
    answer = set_up(backend, extra={"choices": "size"})

    assert answer.status_code == 422
    assert "named 'size' over an Image; it has: colour, shape" in answer.json()["detail"]


def test_a_skip_is_no_label_and_neither_are_two_choices(backend):
    set_up(backend)

    annotate(backend, 1, "red", "red1.png", task=1, was_cancelled=True)
    annotate(backend, 2, None, "red2.png", task=2)
    both = annotation(3, None, task=3) | {"result": [chosen("colour", "red", "blue")]}
    say(backend, "ANNOTATION_UPDATED", annotation=both, task=upload(3, "red3.png"))

    assert labels(backend) == {"red1.png": None, "red2.png": None, "red3.png": None}


def test_many_annotations_come_at_once(backend):
    set_up(backend)

    say(
        backend,
        "ANNOTATIONS_CREATED",
        annotation=[annotation(1, "red", task=1), annotation(2, "blue", task=2)],
        task=[upload(1, "red1.png"), upload(2, "blue1.png")],
    )

    assert labels(backend) == {"red1.png": "red", "blue1.png": "blue"}


def test_a_changed_interface_brings_new_labels(backend):
    set_up(backend)
    config = CONFIG.replace('<Choice value="red"/>', '<Choice value="red"/><Choice value="grey"/>')

    answer = backend.post(
        f"{AT}/webhook",
        json={"action": "PROJECT_UPDATED", "project": {"id": 7, "label_config": config}},
    )

    assert answer.status_code == 200
    names = [i["name"] for i in backend.get("/v1/projects/birds/labels").json()["items"]]
    assert sorted(names) == ["blue", "grey", "red"]
