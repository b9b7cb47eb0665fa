"""The client for programs, that waits and that does not, against a real service."""

import asyncio
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from handful import calls
from handful.calls import project_path
from handful.client import AsyncHandful, Handful
from handful.contract.jobs import EventRead
from handful.retries import RequestRefused, ServiceUnreachable
from handful.steps import FILES_PER_REQUEST, JobUnsuccessful

PAGE = Path(__file__).parents[2] / "docs/how-to/use-the-python-client.md"


class Waiting:
    """`AsyncHandful`, each of whose methods is waited for, so that one test holds for both."""

    def __init__(self, url):
        self._loop = asyncio.new_event_loop()
        self._client = AsyncHandful(url)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._loop.run_until_complete(self._client.close())
        self._loop.close()

    def __getattr__(self, name):
        method = getattr(self._client, name)

        def call(*args, **kwargs):
            if args and isinstance(args[0], _Method):
                args = (args[0].inner, *args[1:])
            result = method(*args, **kwargs)
            if inspect.isasyncgen(result):
                return self._loop.run_until_complete(gather(result))
            return self._loop.run_until_complete(result)

        return _Method(call, method)


class _Method:
    def __init__(self, call, inner):
        self.inner = inner
        self._call = call

    def __call__(self, *args, **kwargs):
        return self._call(*args, **kwargs)


async def gather(items):
    return [item async for item in items]


@pytest.fixture(params=[Handful, Waiting])
def handful(request, live_url):
    with request.param(live_url) as made:
        yield made


@pytest.fixture
def filled(handful, png):
    """A client of a service with a project `birds`: two labels of two images, four in the pool."""
    handful.create_project("birds", description="of the garden", head="cosine")
    for colour in ("red", "blue"):
        handful.add_images("birds", [png(colour, n) for n in range(2)], label=colour)
    handful.add_images("birds", [png(c, n) for c in ("red", "blue") for n in (2, 3)])
    return handful


def test_a_project_is_made_changed_and_removed(handful):
    made = handful.create_project("birds", description="of the garden")
    assert (made.name, made.labels, made.head["name"]) == ("birds", 0, "auto")

    handful.create_label("birds", "owl")
    changed = handful.edit_project("birds", name="fowl", head={"name": "cosine"})
    assert (changed.name, changed.description) == ("fowl", "of the garden")
    assert handful.project("fowl").labels == 1
    assert [label.name for label in handful.labels("fowl").items] == ["owl"]

    handful.delete_label("fowl", "owl")
    assert handful.project("fowl").labels == 0
    assert handful.delete_project("fowl") is None
    assert handful.projects().items == []


def test_images_are_sent_in_several_requests(handful, png, tmp_path):
    handful.create_project("birds")
    count = FILES_PER_REQUEST + 3
    path = tmp_path / "first.png"
    path.write_bytes(png("red", 0))
    files = [
        path,
        *(png("red", n) for n in range(1, count - 2)),
        b"none",
        ("last.png", png("blue")),
    ]
    heard: list[tuple[int, int]] = []

    added = handful.add_images(
        "birds",
        files,
        metadata={"camera": "north"},
        progress=lambda done, of: heard.append((done, of)),
    )

    assert heard == [(FILES_PER_REQUEST, count), (count, count)]
    assert [one.position for one in added.failed] == [count - 2]
    assert [one.position for one in added.images] == [*range(count - 2), count - 1]
    assert (added.images[0].filename, added.images[-1].filename) == ("first.png", "last.png")
    some = handful.images("birds", metadata={"camera": "north"}, limit=10)
    assert len(some.items) == 10
    everything = list(handful.all(handful.images, "birds", limit=20))
    assert [one.id for one in everything] == [one.id for one in added.images]


def test_images_are_classified_ranked_and_labeled(filled, png):
    answer = filled.classify("birds", [png("red", 9)], top_k=1, nearest=1)
    assert answer.predictions[0].label == "red"
    assert len(answer.predictions[0].probabilities) == 1

    ranked = filled.rank("birds", budget=2, strategy="margin").images
    assert len(ranked) == 2
    handed = filled.next_images("birds", "ann", budget=3).images
    assert filled.skip("birds", "ann", [handed[0].image]).skipped == 1

    chosen = handed[1].image
    assert filled.set_label("birds", chosen, "red", annotator="ann").label == "red"
    with pytest.raises(RequestRefused) as refused:
        filled.set_label("birds", chosen, "blue", annotator="bob")
    assert refused.value.status == 409
    assert refused.value.type == "/problems/already-labeled"
    assert refused.value.title == "Someone else has labeled the image differently"
    assert refused.value.members["label"] == "red"
    assert filled.undo_label("birds", chosen).label is None
    assert len(filled.annotations("birds", chosen).items) == 2

    applied = filled.annotate("birds", {chosen: "blue", uuid4(): "red"}, source="a tool")
    assert (applied.applied, len(applied.failed)) == (1, 1)
    assert filled.remove_label("birds", chosen).label is None
    assert filled.similar("birds", chosen, limit=2).images[0].cosine <= 1
    assert filled.image_content("birds", chosen).startswith(b"\x89PNG")
    filled.delete_image("birds", chosen)
    with pytest.raises(RequestRefused, match="has no image"):
        filled.image("birds", chosen)
    assert "label at least 10" in filled.report("birds", target=0.9).missing[0]


def test_a_project_is_exported_and_imported(filled):
    file = b"".join(filled.export("birds", "csv_manifest", state="support"))
    assert file.count(b"red") >= 2

    archive = b"".join(filled.export("birds"))
    filled.create_project("copy")
    made = filled.import_file("copy", archive)

    assert (made.format, made.images, made.labeled) == ("folders", 8, 4)
    with pytest.raises(RequestRefused, match="format"):
        list(filled.export("birds", "none"))


def test_a_job_is_followed_to_its_end(filled, live_service, do):
    job = filled.start_job("birds", "promote", version=str(filled.project("birds").encoder.id))
    assert filled.jobs("birds").items[0].id == job.id
    assert filled.job_events("birds", job.id).items[0].data.state == "queued"

    assert filled.cancel_job("birds", job.id).state == "cancelled"
    heard: list[EventRead] = []
    with pytest.raises(JobUnsuccessful, match="cancelled") as ended:
        filled.wait("birds", job.id, heard.append)
    assert ended.value.job.id == job.id
    assert [event.data.state for event in heard] == ["queued", "cancelled"]
    assert filled.retry_job("birds", job.id).state == "queued"


def test_versions_are_downloaded_uploaded_and_promoted(filled):
    first = filled.project("birds").encoder.id
    weights = filled.weights("birds", first)

    made = filled.upload_version("birds", weights, like=first)

    assert [one.id for one in filled.versions("birds").items][:1] == [made.id]
    assert filled.promote("birds", made.id).job is not None


def test_a_project_without_learned_heads_has_an_empty_page(filled):
    assert filled.learned_heads("birds").items == []
    with pytest.raises(RequestRefused, match="has no learned head"):
        filled.head_weights("birds", uuid4())


def test_both_clients_have_a_method_for_each_call():
    known = {
        name
        for name, function in inspect.getmembers(calls, inspect.isfunction)
        if function.__module__ == calls.__name__
        and str(function.__annotations__.get("return", "")).startswith("handful.calls.Call[")
        and not name.startswith("_")
    }

    assert len(known) > 30
    for name in known:
        assert inspect.getdoc(getattr(Handful, name)) == inspect.getdoc(getattr(calls, name))
        assert hasattr(AsyncHandful, name)


def test_the_examples_of_the_how_to_run(live_url, png, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "photos").mkdir()
    for colour in ("red", "blue"):
        (tmp_path / "photos" / colour).mkdir()
        for n in range(3):
            (tmp_path / "photos" / colour / f"{n}.png").write_bytes(png(colour, n))
            (tmp_path / "photos" / f"{colour}{n}.png").write_bytes(png(colour, n + 5))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}

    for block in blocks:
        exec(textwrap.dedent(block).replace("http://127.0.0.1:8000", live_url), names)

    names["handful"].close()
    assert len(blocks) >= 4


def test_a_client_says_when_nobody_answers():
    with (
        Handful("http://127.0.0.1:9") as client,
        pytest.raises(ServiceUnreachable, match="handful serve"),
    ):
        client.get("/v1/projects")


def test_a_client_waits_while_the_service_is_busy(monkeypatch):
    answers = iter([httpx.Response(429, headers={"Retry-After": "0"}), httpx.Response(200, json=7)])
    with Handful("http://localhost") as client:
        keys = []

        def respond(method, path, *, headers, **_) -> httpx.Response:
            keys.append(headers["Idempotency-Key"])
            return next(answers)

        monkeypatch.setattr(client._http, "request", respond)

        assert client.post("/v1/projects", {}) == 7
        assert len(set(keys)) == 1


def test_a_client_gives_up_in_the_end(monkeypatch):
    busy = httpx.Response(503, headers={"Retry-After": "1"}, text="the disk is full")
    with Handful("http://localhost", patience_s=0) as client:
        monkeypatch.setattr(client._http, "request", lambda *_, **__: busy)

        with pytest.raises(ServiceUnreachable, match="the disk is full"):
            client.get("/v1/projects")


def test_a_client_hands_on_what_the_service_objects_to(live_url):
    with Handful(live_url) as client, pytest.raises(RequestRefused, match="no project 'none'"):
        client.get(project_path("none"))


def test_a_stranger_is_known_as_such(monkeypatch):
    page = httpx.Response(200, text="<html>", request=httpx.Request("GET", "http://localhost/x"))
    with Handful("http://localhost") as handful:
        monkeypatch.setattr(handful._http, "request", lambda *_, **__: page)

        for call in (lambda: handful.project("birds"), lambda: handful.get("/v1/projects")):
            with pytest.raises(ServiceUnreachable, match="does not look like Handful"):
                call()
