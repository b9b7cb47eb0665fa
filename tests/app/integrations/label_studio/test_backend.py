"""A project as a machine learning backend of Label Studio."""

import base64
import threading
import time

import httpx
from fastapi.testclient import TestClient
from pydantic import SecretStr

from app.integrations.label_studio.backend import LabelStudioBackend
from app.main import create_app
from tests.app.integrations.label_studio.conftest import (
    AT,
    NEW,
    PROJECT,
    Studio,
    annotate,
    annotation,
    chosen,
    labels,
    predict,
    say,
    set_up,
    task,
    upload,
)


def test_a_project_that_is_not_there_is_told(backend):
    for address in ("health", "versions"):
        assert backend.get(f"/label-studio/none/{address}").status_code == 404
    body = {"action": "TASKS_CREATED", "project": PROJECT}
    assert backend.post("/label-studio/none/webhook", json=body).status_code == 404


def test_tasks_get_suggestions_in_order_once_two_labels_have_images(backend, studio):
    set_up(backend)
    (nothing,) = predict(backend, upload(1, "red1.png"))
    assert (nothing["score"], nothing["result"]) == (None, [])

    annotate(backend, 1, "red", "red1.png", task=1)
    annotate(backend, 2, "blue", "blue1.png", task=2)
    red, missing, blue = predict(
        backend, upload(3, "red2.png"), upload(4, "none.png"), upload(5, "blue2.png")
    )

    assert red["result"] == [chosen("colour", "red")]
    assert blue["result"] == [chosen("colour", "blue")]
    assert missing["result"] == []
    assert 0.5 < red["score"] <= 1
    assert red["model_version"] == set_up(backend).json()["model_version"]
    assert backend.get("/v1/projects/birds").json()["pool"] == 2
    asked = list(Studio.asked)
    assert predict(backend, upload(3, "red2.png"))[0] == red
    assert Studio.asked == asked  # an image that is known is not fetched again
    assert asked.count("/api/token/refresh/") == 1


def test_training_is_started_when_there_are_labels_enough(backend):
    set_up(backend)
    refused = backend.post(f"{AT}/webhook", json={"action": "START_TRAINING", "project": PROJECT})
    assert refused.status_code == 409

    for n in range(1, 5):
        colour = "red" if n % 2 else "blue"
        annotate(backend, n, colour, f"{colour}{n}.png", task=n)
    job = say(backend, "START_TRAINING")["job"]

    assert backend.get(f"/v1/projects/birds/jobs/{job}").json()["kind"] == "finetune"


def pushed(before=None):
    """The rows of the last push, and the version that Label Studio was told.

    The suggestions of the version before are taken away when the new ones are in use.
    """
    paths = [path for path, _ in Studio.sent]
    assert paths[:2] == ["/api/projects/7/import/predictions", "/api/projects/7"]
    (_, rows), (_, project), *gone = Studio.sent
    path = "/api/projects/7/model-versions/"
    assert gone == ([(path, {"model_version": before})] if before else [])
    Studio.sent.clear()
    Studio.answers[path] = {project["model_version"]: len(rows)}
    return rows, project["model_version"]


def test_what_is_pushed_is_handed_out_in_our_order(backend, monkeypatch):
    monkeypatch.setattr("app.integrations.label_studio.backend.FIRST", 2)
    set_up(backend)
    for n, colour in enumerate(("red", "blue"), start=1):
        annotate(backend, n, colour, f"{colour}1.png", task=n)
    say(backend, "TASKS_CREATED", tasks=[upload(n, f"red{n}.png") for n in range(2, 6)])
    say(backend, "TASKS_CREATED", tasks=[upload(n, f"blue{n - 10}.png") for n in range(12, 15)])
    Studio.answers |= NEW

    answer = backend.post(f"{AT}/push", json={"project": 7})

    assert answer.status_code == 200, answer.text
    rows, version = pushed()
    assert answer.json() == {"version": version, "tasks": len(rows)}
    assert {row["model_version"] for row in rows} == {version}
    assert [row["task"] for row in rows] == [3, 4, 5, 12, 13, 14]  # the others have labels
    for row in rows:
        assert row["result"] == [chosen("colour", "red" if row["task"] < 10 else "blue")]
    ranked = backend.post("/v1/projects/birds/pool/rank", json={"budget": 2}).json()["images"]
    names = {
        i["id"]: i["filename"] for i in backend.get("/v1/projects/birds/images").json()["items"]
    }
    name_of = {3: "red3", 4: "red4", 5: "red5", 12: "blue2", 13: "blue3", 14: "blue4"}
    files = {n: f"{name}.png" for n, name in name_of.items()}
    first = sorted(rows, key=lambda row: row["score"])
    assert [files[row["task"]] for row in first[:2]] == [names[r["image"]] for r in ranked]
    assert first[0]["score"] == 0
    assert first[1]["score"] < first[2]["score"] <= 1


def test_after_ten_labels_there_is_a_new_order(backend, png):
    Studio.files |= {f"grey{n}.png": png("grey", n) for n in range(20)}
    Studio.answers |= NEW
    say(backend, "TASKS_CREATED", tasks=[upload(n, f"grey{n}.png") for n in range(20)])
    backend.post(f"{AT}/push", json={"project": 7}).raise_for_status()
    rows, before = pushed()
    assert len(rows) == 20
    assert all(row["result"] == [] for row in rows)  # nothing is known yet, but the order

    for n in range(9):
        annotate(backend, n, "red" if n % 2 else "blue", f"grey{n}.png", task=n)
    assert Studio.sent == []
    annotate(backend, 9, "red", "grey9.png", task=9)

    rows, after = pushed(before)
    assert len(rows) == 10
    assert after != before

    backend.post(f"{AT}/push", json={"project": 7}).raise_for_status()
    gone = Studio.sent.pop(0)  # the same version again: what it said before goes first
    assert gone == ("/api/projects/7/model-versions/", {"model_version": after})
    assert pushed()[1] == after


def test_what_was_missed_is_taken_in(backend):
    set_up(backend)
    annotate(backend, 1, "red", "red1.png", task=1)
    annotate(backend, 2, "blue", "blue1.png", task=2)
    say(backend, "TASKS_CREATED", tasks=[upload(3, "red3.png"), upload(5, "red5.png")])
    Studio.answers |= {
        **NEW,
        "/api/tasks": {
            "total": 3,
            "tasks": [
                upload(1, "red1.png") | {"annotations": []},  # its annotation was deleted
                upload(2, "blue1.png") | {"annotations": [annotation(2, "blue", task=2)]},
                upload(4, "blue4.png") | {"annotations": [annotation(4, "red", task=4)]},
            ],
        },
    }

    answer = backend.post(f"{AT}/sync", json={"project": 7})

    assert answer.json() | {"version": ""} == {"version": "", "tasks": 3, "annotations": 2}
    assert labels(backend) == {
        "red1.png": None,
        "blue1.png": "blue",
        "red3.png": None,
        "red5.png": None,
        "blue4.png": "red",
    }
    rows, _ = pushed()
    assert [row["task"] for row in rows] == [1]  # 3 and 5 are no tasks any more


def test_an_image_that_came_from_here_is_not_fetched(backend, png):
    files = [("files", ("mine.png", png("red"), "image/png"))]
    stored = backend.post("/v1/projects/birds/pool", files=files).json()["images"][0]["id"]
    strange = "0" * 8 + stored[8:]

    predict(backend, upload(1, f"cf538e5d-{stored}.png"), upload(2, f"cf538e5d-{strange}.png"))

    assert [path for path in Studio.asked if stored in path] == []
    assert [path for path in Studio.asked if strange in path] != []
    annotate(backend, 1, "red", "any.png", task=1)
    assert labels(backend) == {"mine.png": "red"}


def test_an_event_that_nobody_needs_changes_nothing(backend):
    say(backend, "LABEL_LINK_CREATED")
    assert backend.post(f"{AT}/webhook", json={"action": "X"}).status_code == 200
    assert labels(backend) == {}


def test_the_key_may_come_as_a_password_here_and_only_here(settings):
    secret = settings.model_copy(update={"api_key": SecretStr("sesame")})
    with TestClient(create_app(secret), base_url="http://handful.example") as client:
        client.post(
            "/v1/projects", json={"name": "birds"}, headers={"Authorization": "Bearer sesame"}
        )

        assert client.get(f"{AT}/health").status_code == 401
        assert client.get(f"{AT}/health", auth=("any", "wrong")).status_code == 401
        assert client.get(f"{AT}/health", headers={"Authorization": "Basic ?"}).status_code == 401
        assert client.get(f"{AT}/health", auth=("any", "sesame")).status_code == 200
        assert client.get("/v1/projects", auth=("any", "sesame")).status_code == 401


def test_an_event_is_answered_before_its_work_is_done(live_service, png, monkeypatch):
    address, _ = live_service
    with httpx.Client(base_url=address) as client:
        client.post("/v1/projects", json={"name": "birds"})
        let_go = threading.Event()
        handle = LabelStudioBackend.handle

        def slowly(*given):
            let_go.wait(60)
            handle(*given)

        monkeypatch.setattr(LabelStudioBackend, "handle", slowly)
        data = "data:image/png;base64," + base64.b64encode(png("red")).decode()
        event = {"action": "TASKS_CREATED", "project": PROJECT, "tasks": [task(1, data)]}

        assert client.post(f"{AT}/webhook", json=event).status_code == 200
        assert client.get("/v1/projects/birds").json()["pool"] == 0
        let_go.set()
        deadline = time.monotonic() + 60
        while not client.get("/v1/projects/birds").json()["pool"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
