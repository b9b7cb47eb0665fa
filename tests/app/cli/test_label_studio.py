"""A real Label Studio and a real service, linked; both on this machine.

Label Studio has an environment of its own: `pip install label-studio` there, and name its program
in HANDFUL_TEST_LABEL_STUDIO.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest
from typer.testing import CliRunner

from app import cli
from app.cli import label_studio as linking
from app.integrations.label_studio.backend import FIRST, FRESH, NAMED
from app.integrations.label_studio.host import Host
from handful.client import Handful

PROGRAM = os.environ.get("HANDFUL_TEST_LABEL_STUDIO", "")
KEY = "sesame"
USER, PASSWORD = "someone@example.com", "a password"
BOOT_S = 300
EVENT_S = 60  # until what an event asks for is done
COLOURS = ("red", "green", "blue")
real = pytest.mark.skipif(
    not PROGRAM, reason="no Label Studio: see the head of tests/app/cli/test_label_studio.py"
)


class Process:
    """A server that can be stopped and started again."""

    token = ""  # of Label Studio

    def __init__(self, command, port, health, folder, **environment):
        self.url = f"http://127.0.0.1:{port}"
        self._command = command
        self._health = self.url + health
        self._folder = folder
        self._environment = os.environ | {"HOME": str(folder)} | environment
        self._process = None

    def start(self):
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, env=self._environment, stdout=log, stderr=log
            )
        wait_for(self._is_up, BOOT_S)

    def stop(self):
        if self._process:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _is_up(self):
        assert self._process.poll() is None, (self._folder / "log").read_text()[-2000:]
        try:
            return httpx.get(self._health, trust_env=False).is_success
        except httpx.HTTPError:
            return False


def wait_for(what, patience_s=EVENT_S):
    deadline = time.monotonic() + patience_s
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def personal_access_token(url):
    """As a person makes one, signed in, on the page of their account."""
    with httpx.Client(base_url=url, follow_redirects=True, trust_env=False) as browser:
        browser.get("/user/login/")
        form = {"email": USER, "password": PASSWORD}
        token = {"csrfmiddlewaretoken": browser.cookies["csrftoken"]}
        browser.post("/user/login/", data=form | token, headers={"Referer": url})
        headers = {"X-CSRFToken": browser.cookies["csrftoken"], "Referer": url}
        answer = browser.post("/api/token/", headers=headers)
        assert answer.status_code == 201, answer.text
        return answer.json()["token"]


@pytest.fixture
def label_studio(tmp_path):
    folder = tmp_path / "label-studio"
    folder.mkdir()
    port = free_port()
    command = [PROGRAM, "start", "--no-browser", "--internal-host", "127.0.0.1"]
    command += ["--port", str(port), "--data-dir", str(folder)]
    process = Process(
        [*command, "--username", USER, "--password", PASSWORD],
        port,
        "/health",
        folder,
        ML_BLOCK_LOCAL_IP="false",
        SSRF_PROTECTION_ENABLED="false",
        COLLECT_ANALYTICS="false",
        LATEST_VERSION_CHECK="false",
    )
    process.start()
    yield process
    process.stop()


@pytest.fixture
def handful(tmp_path, label_studio):
    """A service with a key, which knows Label Studio."""
    folder = tmp_path / "handful"
    folder.mkdir()
    port = free_port()
    token = personal_access_token(label_studio.url)
    process = Process(
        [sys.executable, "-m", "app.cli", "serve", "--port", str(port), "--workers", "0"],
        port,
        "/readyz",
        folder,
        PYTHONPATH=str(Path(cli.__file__).parents[2]),
        HANDFUL_API_KEY=KEY,
        HANDFUL_ENCODER="conv4:8",
        HANDFUL_DEVICE="cpu",
        HANDFUL_LABEL_STUDIO_URL=label_studio.url,
        HANDFUL_LABEL_STUDIO_TOKEN=token,
    )
    process.token = token
    process.start()
    yield process
    process.stop()


@pytest.fixture
def client(handful):
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=handful.url, headers=headers, timeout=60, trust_env=False) as made:
        yield made


@real
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_people_label_in_label_studio_what_is_most_worth_labeling(
    label_studio, handful, client, png, monkeypatch
):
    studio = Host(label_studio.url, handful.token, 1 << 20)
    project = "/v1/projects/birds"
    client.post("/v1/projects", json={"name": "birds"}).raise_for_status()
    for colour in COLOURS:
        files = [("files", (f"{n}.png", png(colour, n), "image/png")) for n in range(2)]
        client.post(f"{project}/labels/{colour}/support", files=files).raise_for_status()
    pool = [("files", (f"{c}{n}.png", png(c, n))) for c in COLOURS for n in range(2, 12)]
    client.post(f"{project}/pool", files=pool).raise_for_status()

    # Connect, twice: nothing is made twice.
    monkeypatch.setenv("HANDFUL_API_KEY", KEY)
    command = ["label-studio", "connect", "--project", "birds", "--url", label_studio.url]
    command += ["--token", handful.token, "--handful", handful.url]
    first = CliRunner().invoke(cli.app, command)
    assert "30 images imported, 30 tasks in order" in first.output, first.output
    again = CliRunner().invoke(cli.app, command)
    assert "0 images imported, 30 tasks in order" in again.output, again.output
    (made,) = studio.pages("/api/projects")
    number = made["id"]
    assert made["task_number"] == 30
    assert len(studio.call("GET", "/api/ml", params={"project": number})) == 1
    (webhook,) = studio.call("GET", "/api/webhooks/", params={"project": number})
    assert webhook["headers"] == {"Authorization": f"Bearer {KEY}"}

    # The next task is always the one that is most worth labeling.
    names = {
        i["id"]: i["filename"] for i in client.get(f"{project}/images?limit=1000").json()["items"]
    }
    ranked = client.post(f"{project}/pool/rank", json={"budget": FIRST}).json()["images"]
    expected = [row["image"] for row in ranked]

    def next_task():
        task = studio.call("GET", f"/api/projects/{number}/next")
        return task["id"], NAMED.search(task["data"]["image"])[1], task["predictions"]

    def annotate(task, colour):
        result = linking_result(colour)
        made = studio.call("POST", f"/api/tasks/{task}/annotations", json={"result": result})
        return made["id"]

    def label_of(image):
        return client.get(f"{project}/images/{image}").json()["label"]

    versions = f"/api/projects/{number}/model-versions/"
    before = studio.call("GET", f"/api/projects/{number}")["model_version"]
    for place in range(FRESH - len(COLOURS) * 2):
        task, image, predictions = next_task()
        assert image == expected[place]
        colour = re.match("[a-z]+", names[image])[0]
        assert [p["result"][0]["value"]["choices"] for p in predictions] == [[colour]]
        annotation = annotate(task, colour)
        wait_for(lambda image=image, colour=colour: label_of(image) == colour)

    # After ten labels there is a new order.
    def version():
        return studio.call("GET", f"/api/projects/{number}")["model_version"]

    wait_for(lambda: version() != before)
    assert next_task()[2][0]["model_version"] == version()
    wait_for(lambda: list(studio.call("GET", versions)) == [version()])  # the old are gone

    # A deleted annotation is taken back.
    studio.call("DELETE", f"/api/annotations/{annotation}")
    wait_for(lambda: label_of(image) is None)

    # Both sides restart; what is said meanwhile is not lost.
    handful.stop()
    label_studio.stop()
    label_studio.start()
    task, image, _ = next_task()
    annotate(task, "green")
    handful.start()
    assert label_of(image) is None
    command = ["label-studio", "sync", "--project", "birds", "--handful", handful.url]
    done = CliRunner().invoke(cli.app, [*command, "--studio-project", str(number)])
    assert "30 tasks, 4 annotations" in done.output, done.output
    assert label_of(image) == "green"
    task, image, _ = next_task()
    annotate(task, "red")
    wait_for(lambda: label_of(image) == "red")


def linking_result(label):
    value = {"choices": [label]}
    return [{"from_name": "label", "to_name": "image", "type": "choices", "value": value}]


def test_an_interface_offers_the_labels_whatever_they_are_called():
    root = ElementTree.fromstring(linking.interface(["a", 'b "c" <d> & e']))

    assert [one.get("value") for one in root.iter("Choice")] == ["a", 'b "c" <d> & e']
    assert root.find("Choices").get("toName") == root.find("Image").get("name")


def test_what_is_no_address_of_label_studio_is_told():
    with pytest.raises(linking.CannotLink, match="'localhost' is not an address"):
        linking.studio("localhost", "token")


def test_a_project_without_labels_is_not_linked(live_url):
    class Nothing(Host):
        def pages(self, path, **params):
            return iter(())

    with Handful(live_url) as client:
        client.get_or_create_project("birds")
        given = {"studio_project": None, "address": live_url, "key": "", "advance": print}
        with pytest.raises(linking.CannotLink, match="has no labels"):
            linking.connect(client, Nothing("http://127.0.0.1:1", "", 0), "birds", **given)
