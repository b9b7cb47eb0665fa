"""The protocol of Label Studio, against a small server with its addresses for files."""

import base64
import http.server
import json
import threading
import time
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from app.integrations.label_studio import backend as module
from app.integrations.label_studio.backend import LabelStudioBackend
from app.main import create_app

CONFIG = """
<View>
  <!-- which colour? -->
  <Image name="photo" value="$picture"/>
  <Text name="hint" value="$hint"/>
  <Choices name="mood" toName="hint"><Choice value="good"/></Choices>
  <Choices name="colour" toName="photo">
    <Choice value="red"/><Choice value="Blue sky" alias="blue"/>
  </Choices>
  <Choices name="shape" toName="photo"><Choice value="round"/></Choices>
</View>
"""
TOKEN = "head.body.signature"
PROJECT = {"id": 7, "label_config": CONFIG}
NEW = {"/api/projects/7": PROJECT, "/api/projects/7/model-versions/": {}}
AT = "/label-studio/birds"


class Studio(http.server.BaseHTTPRequestHandler):
    """Serves pictures by name, and answers of its API by path, to who shows an access token.

    It keeps what it was asked for, and what was sent to it.
    """

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []
    answers: ClassVar[dict[str, Any]] = {}
    sent: ClassVar[list[tuple[str, Any]]] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(self.path)
        if self.path != "/api/token/refresh/":
            self.sent.append((self.path, body))
            self._send(b"{}")
        elif body["refresh"] == TOKEN:
            self._send(b'{"access": "in"}')
        else:
            self.send_error(401)

    def do_PATCH(self):
        self.do_POST()

    def do_DELETE(self):
        self.do_POST()

    def do_GET(self):
        self.asked.append(self.path)
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if self.headers["Authorization"] != "Bearer in":
            self.send_error(401)
        elif parts.path in self.answers:
            self._send(json.dumps(self.answers[parts.path]).encode())
        elif parts.path.startswith("/tasks/"):
            uri = base64.urlsafe_b64decode(query["fileuri"][0]).decode()
            self.send_response(303)
            self.send_header("Location", f"http://127.0.0.1:1/{uri.rpartition('/')[2]}")
            self.end_headers()
        else:
            where = (query.get("filepath") or query.get("d") or [parts.path])[0]
            content = self.files.get(where.rpartition("/")[2])
            self._send(content) if content else self.send_error(404)

    def _send(self, content):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def studio(png):
    """Label Studio's address, with a red and a blue picture in several shades."""
    Studio.asked, Studio.sent, Studio.answers = [], [], {}
    Studio.files = {f"{c}{n}.png": png(c, n) for c in ("red", "blue") for n in range(6)}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Studio)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def backend(settings, studio):
    """A service that knows Label Studio, with an empty project `birds`."""
    known = settings.model_copy(
        update={"label_studio_url": studio, "label_studio_token": SecretStr(TOKEN)}
    )
    with TestClient(create_app(known), base_url="http://localhost") as client:
        client.post("/v1/projects", json={"name": "birds"})
        yield client


def set_up(client, config=CONFIG, extra=None):
    body = {
        "project": "7.1795454673",
        "schema": config,
        "hostname": "http://ls:8080",
        "access_token": "theirs",
        "extra_params": extra,
    }
    return client.post(f"{AT}/setup", json=body)


def predict(client, *tasks, config=CONFIG):
    body = {
        "tasks": list(tasks),
        "project": "7.1795454673",
        "label_config": config,
        "params": {"login": None, "password": None, "context": None},
    }
    answer = client.post(f"{AT}/predict", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def task(number, address):
    return {"id": number, "data": {"picture": address}, "meta": {}, "annotations": []}


def upload(number, name):
    return task(number, f"/data/upload/7/{name}")


def say(client, action, **what):
    answer = client.post(f"{AT}/webhook", json={"action": action, "project": PROJECT, **what})
    assert answer.status_code == 200, answer.text
    return answer.json()


def annotation(number, choice, *, task, at="2026-01-01T00:00:00Z", **more):
    result = [] if choice is None else [chosen("colour", choice)]
    return {
        "id": number,
        "task": task,
        "result": result,
        "updated_at": at,
        "completed_by": 3,
    } | more


def chosen(name, *choices):
    value = {"choices": list(choices)}
    return {"from_name": name, "to_name": "photo", "type": "choices", "value": value}


def annotate(client, number, choice, name, *, task, **more):
    said = annotation(number, choice, task=task, **more)
    say(client, "ANNOTATION_CREATED", annotation=said, task=upload(task, name))


def labels(client):
    """Of images by file name."""
    items = client.get("/v1/projects/birds/images?limit=100").json()["items"]
    return {item["filename"]: item["label"] for item in items}


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


def test_images_come_from_wherever_tasks_have_them(backend, studio, png):
    set_up(backend)
    data = "data:image/png;base64," + base64.b64encode(png("green")).decode()

    predict(
        backend,
        upload(1, "red1.png"),
        task(2, "/data/local-files/?d=some/red2.png"),
        task(3, f"{studio}/elsewhere/red3.png"),
        task(4, data),
        task(5, "s3://bucket/red5.png"),
        task(6, "http://127.0.0.1:9/red.png"),
        task(7, "file:///etc/passwd"),
        task(8, None),
        task(9, "data:image/png,plain"),
        task(10, "data:image/png;base64,####"),
    )

    assert sorted(labels(backend)) == ["red1.png", "red2.png", "red3.png", "task-4"]
    assert "/storage-data/uploaded/?filepath=upload%2F7%2Fred1.png" in Studio.asked
    (signed,) = [a for a in Studio.asked if a.startswith("/tasks/5/presign/")]
    assert base64.urlsafe_b64decode(parse_qs(urlsplit(signed).query)["fileuri"][0]) == (
        b"s3://bucket/red5.png"
    )


def test_without_its_address_images_in_label_studio_are_not_looked_for(birds):
    set_up(birds)

    (nothing,) = predict(birds, upload(1, "red1.png"))

    assert nothing["result"] == []
    assert birds.get("/v1/projects/birds").json()["pool"] == 0


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


def test_tasks_come_and_go(backend):
    say(backend, "TASKS_CREATED", tasks=[upload(1, "red1.png"), upload(2, "blue1.png")])
    assert labels(backend) == {"red1.png": None, "blue1.png": None}

    annotate(backend, 1, "red", "red1.png", task=1)
    say(backend, "TASKS_DELETED", tasks=[{"id": 1}, {"id": 2}])

    assert labels(backend) == {"red1.png": "red", "blue1.png": None}  # nothing is lost
    say(backend, "ANNOTATIONS_DELETED", annotations=[{"id": 1}])
    assert labels(backend)["red1.png"] == "red"


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
    monkeypatch.setattr(module, "FIRST", 2)
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


def test_label_studio_that_is_not_set_or_away_is_told(birds, backend):
    refused = birds.post(f"{AT}/push", json={"project": 7})
    assert refused.status_code == 422
    assert "set HANDFUL_LABEL_STUDIO_URL" in refused.json()["detail"]

    away = backend.post(f"{AT}/push", json={"project": 7})
    assert away.status_code == 502
    assert "answered GET /api/projects/7 with status 404" in away.json()["detail"]


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
