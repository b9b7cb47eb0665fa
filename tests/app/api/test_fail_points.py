"""Whatever goes wrong at whatever step of an upload: it is there as a whole, or not at all."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image as Picture
from sqlalchemy import select, update

from app.api.parts import Parts
from app.housekeeping.blob_check import check
from app.http.idempotency import CLAIM_S, Idempotency
from app.labeling.uploads import Upload
from app.main import assemble, create_app
from app.settings import Settings
from app.sql.tables import Annotation, Embedding, Image, Label, StoredResponse
from tests import databases
from tests.fail_points import fail_points

database_url = databases.each
ROOT = Path(__file__).parents[3]
DEATHS = ("write", "rename", "INSERT", "commit", "committed")


def whole_images(parts: Parts) -> dict[str, str | None]:
    """Images by their files, with their labels; each of them whole."""
    with parts.db.reading() as session:
        labels = select(Image.sha256, Label.name).outerjoin(Label, Label.id == Image.label_id)
        images: dict[str, str | None] = {row[0]: row[1] for row in session.execute(labels)}
        embedded = select(Image.sha256).join(Embedding, Embedding.image_id == Image.id)
        annotated = select(Image.sha256).join(Annotation, Annotation.image_id == Image.id)
        assert set(session.scalars(embedded)) == set(images)
        assert set(session.scalars(annotated)) == set(images)
        assert set(session.scalars(select(Label.name))) == set(images.values())
    assert all(parts.blobs.is_intact(digest) for digest in images)
    return images


def test_an_upload_that_fails_at_any_step_can_be_sent_again(birds, settings, png):
    parts = birds.app.state.parts
    client = TestClient(birds.app, base_url="http://localhost", raise_server_exceptions=False)
    number = 0
    images: dict[str, str | None] = {}

    def send():
        files = {"files": ("a.png", png("red", number))}
        path = f"/v1/projects/birds/labels/label {number}/support"
        return client.post(path, files=files)

    while True:
        with fail_points(number) as points:
            answer = send()
        if not points.failed:
            break
        assert answer.status_code == 503, points.passed
        assert "retry-after" in answer.headers
        there = whole_images(parts)
        unknown = there.keys() - images.keys()
        assert len(unknown) == (points.passed[number] == "committed"), points.passed
        again = send()
        assert again.status_code == 201, again.text
        images[again.json()["images"][0]["sha256"]] = f"label {number}"
        assert whole_images(parts) == images
        number += 1

    assert answer.status_code == 201
    assert {"create", "write", "fsync", "rename", "INSERT", "commit"} <= set(points.passed)
    app = create_app(settings)
    with TestClient(app, base_url="http://localhost"):
        state = whole_images(app.state.parts)
        assert images.items() <= state.items()
        assert not list(check(parts.db, parts.blobs))  # not even what is of no use
        assert not list(settings.data_dir.rglob("*.part-*"))


def first_change(client: TestClient, png) -> str:
    """The address at which the last change of an image is taken back; there are two."""
    files = {"files": ("a.png", png("red"))}
    added = client.post("/v1/projects/birds/labels/robin/support", files=files).json()
    image = f"/v1/projects/birds/images/{added['images'][0]['id']}"
    client.delete(f"{image}/label").raise_for_status()
    return f"{image}/label/undo"


def first_job(client: TestClient, png) -> str:
    """The address of jobs, where there is something to learn from."""
    for number, path in enumerate(("labels/robin/support", "labels/wren/support", "pool")):
        files = {"files": (f"{number}.png", png("red", number))}
        client.post(f"/v1/projects/birds/{path}", files=files).raise_for_status()
    return "/v1/projects/birds/jobs"


ONCE = {
    "undo": lambda client, png: (first_change(client, png), None),
    "project": lambda client, png: ("/v1/projects", {"name": "fish"}),
    "label": lambda client, png: ("/v1/projects/birds/labels", {"name": "wren"}),
    "webhook": lambda client, png: (
        "/v1/projects/birds/webhooks",
        {"url": "https://example.com", "events": ["label.set"]},
    ),
    "job": lambda client, png: (first_job(client, png), {"kind": "transduce"}),
}


def everything(client: TestClient) -> list[Any]:
    """What there is more of when work is done twice."""
    paths = ("", "/birds/labels", "/birds/webhooks", "/birds/jobs", "/birds/images")
    lists = [client.get(f"/v1/projects{path}").json()["items"] for path in paths]
    changes = [
        client.get(f"/v1/projects/birds/images/{image['id']}/annotations").json()["items"]
        for image in lists[-1]
    ]
    return [[item["id"] for item in items] for items in (*lists, *changes)]


@pytest.mark.parametrize("work", ONCE)
def test_work_whose_answer_died_with_the_server_is_not_done_again(
    birds, settings, png, monkeypatch, work
):
    """The server ends between the commit of the work and that of its answer."""
    path, body = ONCE[work](birds, png)
    key = {"Idempotency-Key": "one"}

    async def end(*_: object) -> None: ...

    with monkeypatch.context() as dying:
        dying.setattr(Idempotency, "_write", end)
        birds.post(path, json=body, headers=key).raise_for_status()
    done = everything(birds)

    running = birds.post(path, json=body, headers=key)
    app = create_app(settings)
    with TestClient(app, base_url="http://localhost") as client:
        db = app.state.parts.db
        if not db.is_sqlite:  # whose only server a second one might not be
            with db.writing() as session:
                long_ago = db.clock(session) - timedelta(seconds=CLAIM_S + 10)
                session.execute(update(StoredResponse).values(created_at=long_ago))
        again = client.post(path, json=body, headers=key)
        assert everything(client) == done

    assert running.json()["type"].endswith("/key-in-use")
    assert (again.status_code, again.headers["idempotent-replayed"]) == (409, "true")
    assert again.json()["type"].endswith("/answer-lost")


@databases.only_sqlite
def test_a_process_that_dies_at_a_step_loses_nothing_that_it_acknowledged(
    settings, postgresql, tmp_path
):
    """Each process starts on what the one before it left, and looks at it; on both databases."""
    urls = [settings.database, postgresql()]
    command = [sys.executable, "-m", "tests.app.api.test_fail_points", str(tmp_path), *urls]

    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert process.returncode == 0, process.stderr


def main(folder: Path, urls: Sequence[str]) -> None:
    """Let processes die, one after the other; what they share was loaded once."""
    torch.set_num_threads(1)
    for number, url in enumerate(urls):
        settings = Settings(
            data_dir=folder / str(number),
            database_url=url,
            encoder="conv4:8",
            device="cpu",
            runtime="pytorch",
            decode_threads=1,
            log_level="ERROR",
        )
        assemble(settings).db.close()  # so that no process has to load anything
        for point in (*DEATHS, None):
            child = os.fork()
            if not child:
                live(settings, folder / f"acknowledged {number}", point)
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert status == (0 if point is None else -signal.SIGKILL), (url, point, status)


def live(settings: Settings, ledger: Path, point: str | None) -> None:
    """Look at what there is, upload a picture, and die while another is uploaded."""
    parts = assemble(settings)
    acknowledged = ledger.read_text().split() if ledger.exists() else []
    if not acknowledged:
        parts.projects.create("birds", "", {"name": "cosine", "options": {}})
    there = whole_images(parts)
    assert set(acknowledged) <= there.keys(), point
    with parts.embedder:
        digest = store(parts, len(DEATHS) + len(acknowledged))
        with ledger.open("a") as file:
            file.write(f"{digest}\n")
        if point is None:
            for number in range(len(DEATHS)):  # those that nobody was told of
                store(parts, number)
            assert len(whole_images(parts)) == 2 * len(DEATHS) + 1
            return
        with fail_points(point, die=True):
            store(parts, DEATHS.index(point))


def store(parts: Parts, seed: int) -> str:
    """Upload a picture with a label of its own; the SHA-256 of the file."""
    buffer = io.BytesIO()
    Picture.new("RGB", (20, 20), (seed, 0, 0)).save(buffer, "PNG")
    upload = Upload(f"{seed}.png", buffer.getvalue())
    added = parts.uploads.add("birds", [upload], label=f"label {seed}")
    return added.stored[0].sha256


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
