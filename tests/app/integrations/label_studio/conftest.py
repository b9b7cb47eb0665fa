"""A small server with the addresses of Label Studio, and what it sends to a service."""

import base64
import http.server
import json
import threading
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

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
