"""What was said of tasks is remembered, and the last word counts."""

from tests.app.integrations.label_studio.conftest import annotate, labels, say, set_up, upload


def test_the_last_word_on_a_task_is_its_label(backend):
    set_up(backend)
    annotate(backend, 1, "red", "red1.png", task=1, at="2026-01-01T00:00:02Z")
    assert labels(backend) == {"red1.png": "red"}

    annotate(backend, 1, "blue", "red1.png", task=1, at="2026-01-01T00:00:01Z")  # came late
    assert labels(backend) == {"red1.png": "red"}

    annotate(backend, 2, "blue", "red1.png", task=1, at="2026-01-01T00:00:03Z")
    assert labels(backend) == {"red1.png": "blue"}

    say(backend, "ANNOTATIONS_DELETED", annotations=[{"id": 2}])
    assert labels(backend) == {"red1.png": "red"}

    say(backend, "ANNOTATIONS_DELETED", annotations=[{"id": 1}, {"id": 99}])
    assert labels(backend) == {"red1.png": None}
    (image,) = backend.get("/v1/projects/birds/images").json()["items"]
    history = backend.get(f"/v1/projects/birds/images/{image['id']}/annotations").json()["items"]
    assert [(h["label"], h["source"]) for h in history] == [
        (None, "label_studio"),
        ("red", "label_studio"),
        ("blue", "label_studio"),
        ("red", "label_studio"),
    ]
    assert history[-1]["annotator"] == "Label Studio 3"


def test_tasks_come_and_go(backend):
    say(backend, "TASKS_CREATED", tasks=[upload(1, "red1.png"), upload(2, "blue1.png")])
    assert labels(backend) == {"red1.png": None, "blue1.png": None}

    annotate(backend, 1, "red", "red1.png", task=1)
    say(backend, "TASKS_DELETED", tasks=[{"id": 1}, {"id": 2}])

    assert labels(backend) == {"red1.png": "red", "blue1.png": None}  # nothing is lost
    say(backend, "ANNOTATIONS_DELETED", annotations=[{"id": 1}])
    assert labels(backend)["red1.png"] == "red"
