"""A project with everything that is awkward to write down."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings

LABELS = (
    "dress",
    "Dress",
    'été, "bleu"; l\'été',
    "衣服 ",
    "=1+1",
    ".hidden",
    "a:b*c?",
    "unlabeled",
    "__MACOSX",
    "handful.jsonl",
    "x" * 200,
    "服" * 200,
    "🙂",
    "-dash",
    "none",
    "null",
    "7",
    "<b>",
)
FILENAMES = (
    "../../etc/passwd.png",
    'quote".png',
    "comma, semicolon;.png",
    "日本.png",
    "..",
    ".png",
    "no suffix",
    "a" * 250 + ".png",
    "=cmd.png",
    "same.png",
    "same.png",
)
ANNOTATORS = ("ada", 'two\nlines, "quoted"', "=1+1", " spaces ", None)


def post(service: TestClient, path: str, **content):
    answer = service.post(f"/v1/projects/{path}", **content)
    assert answer.is_success, answer.text
    return answer


def upload(service, path, *files):
    return post(service, path, files=[("files", file) for file in files]).json()["images"]


def images(service, project) -> list[dict]:
    found = service.get(f"/v1/projects/{project}/images?limit=1000").json()["items"]
    for image in found:
        history = service.get(f"/v1/projects/{project}/images/{image['id']}/annotations").json()
        labeled = image["label"] is not None
        image["annotator"] = history["items"][0]["annotator"] if labeled else None
    return found


def labels(service, project) -> list[str]:
    found = service.get(f"/v1/projects/{project}/labels?limit=1000").json()["items"]
    return [label["name"] for label in found]


def facts(service, project) -> set[tuple]:
    """What a round trip must keep of each image."""
    kept = ("sha256", "filename", "media_type", "width", "height", "label", "annotator")
    return {tuple(image[key] for key in kept) for image in images(service, project)}


def export(service, project="awkward", name="folders", options=None, **more) -> bytes:
    body = {"format": {"name": name, "options": options or {}}, **more}
    return post(service, f"{project}/export", json=body).content


def import_(service, content: bytes, project, query="") -> dict:
    return post(service, f"{project}/import{query}", content=content).json()


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[TestClient]:
    """A service for all tests of a module; each makes projects of its own."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("shared"),
        encoder="conv4:8",
        device="cpu",
        runtime="pytorch",
        decode_threads=1,
    )
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        yield client


@pytest.fixture
def new(shared) -> Callable[[], str]:
    """Makes empty projects."""

    def make() -> str:
        name = uuid4().hex[:12]
        assert shared.post("/v1/projects", json={"name": name}).is_success
        return name

    return make


@pytest.fixture
def copy(new) -> str:
    """The name of an empty project."""
    return new()


@pytest.fixture(scope="module")
def awkward(shared, png) -> TestClient:
    """A service with a project `awkward`, which stays as it is."""
    shared.post("/v1/projects", json={"name": "awkward"})
    for label in LABELS:
        post(shared, "awkward/labels", json={"name": label})
    post(shared, "awkward/labels", json={"name": "without images"})
    names = [*FILENAMES, *(f"{n}.png" for n in range(len(LABELS))), "photo.JPG"]
    stored = upload(shared, "awkward/pool", *((f, png("red", n)) for n, f in enumerate(names)))
    answer = shared.post(  # raw: it has no name
        "/v1/projects/awkward/pool", content=png("green"), headers={"Content-Type": "image/png"}
    )
    assert answer.is_success
    changes = [
        {"image": image["id"], "label": label, "annotator": ANNOTATORS[n % len(ANNOTATORS)]}
        for n, (image, label) in enumerate(zip(stored, LABELS, strict=False))
    ]
    answer = post(shared, "awkward/annotations", json={"annotations": changes})
    assert answer.json()["failed"] == []
    return shared


@pytest.fixture
def limit(shared) -> Iterator[Callable[..., None]]:
    """Sets limits of uploads, until the end of the test."""
    state, before = shared.app.state, shared.app.state.intake

    def change(**changes: int) -> None:
        state.intake = before._replace(limits=replace(before.limits, **changes))

    yield change
    state.intake = before


@pytest.fixture
def few(shared, new, png) -> str:
    """The name of a project of three labeled images and one in the pool, all of its own."""
    project, colour = new(), f"#{secrets.token_hex(3)}"
    for n, label in enumerate(("red", "red", "blue")):
        upload(shared, f"{project}/labels/{label}/support", (f"{n}.png", png(colour, n)))
    upload(shared, f"{project}/pool", ("3.png", png(colour, 3)))
    return project
