"""Files that nothing refers to go, and never one that an upload has acknowledged."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy import select

from app.housekeeping import blob_sweep
from app.housekeeping.blob_sweep import Swept, sweep
from app.sql.tables import DoomedBlob, EncoderVersion, ProjectVersion
from app.storage.blobs import Blobs
from tests import databases
from tests.server_process import PATIENCE_S
from tests.uploads import upload

database_url = databases.each
LONG_AGO = timedelta(days=2)


@pytest.fixture(params=["folder", "bucket"])
def settings(request, settings, tmp_path):
    """A service with its files in a folder, or in a bucket."""
    url = f"memory://{tmp_path}" if request.param == "bucket" else ""
    return settings.model_copy(update={"blob_url": url})


@pytest.fixture
def parts(birds):
    return birds.app.state.parts


def add(service, content: bytes) -> dict[str, str]:
    """An image of the pool."""
    answer = upload(service, "/pool", content)
    assert answer.status_code == 201, answer.text
    return answer.json()["images"][0]


def path_of(image) -> str:
    return f"/v1/projects/birds/images/{image['id']}"


def later(parts) -> None:
    """Let the time pass after which what is marked goes, and what went is forgotten."""
    with parts.db.writing() as session:
        for mark in session.scalars(select(DoomedBlob)):
            mark.since -= LONG_AGO


def marks(parts) -> dict[str, str]:
    with parts.db.reading() as session:
        return {mark.sha256: mark.state for mark in session.scalars(select(DoomedBlob))}


@pytest.fixture
def deleted(birds, parts, png):
    """An image that was deleted two days ago, whose file the next sweep removes."""
    image = add(birds, png("red"))
    birds.delete(path_of(image))
    assert sweep(parts.db, parts.blobs).marked == 1
    later(parts)
    return image


def test_a_file_goes_some_time_after_its_last_image_and_no_other_does(birds, parts, png):
    kept, gone = add(birds, png("red")), add(birds, png("blue"))
    birds.delete(path_of(gone))

    first, second = (sweep(parts.db, parts.blobs) for _ in range(2))
    later(parts)
    third = sweep(parts.db, parts.blobs)

    assert (first, second, third) == (Swept(1, 0), Swept(0, 0), Swept(0, 1))
    assert birds.get(f"{path_of(kept)}/content").content == png("red")
    assert parts.blobs.size(gone["sha256"]) is None
    assert marks(parts) == {gone["sha256"]: "gone"}
    later(parts)
    assert sweep(parts.db, parts.blobs) == Swept(0, 0)
    assert marks(parts) == {}


def test_what_a_version_learned_stays_as_long_as_its_project(birds, parts):
    weights, learner = parts.blobs.put(b"weights"), parts.blobs.put(b"learner")
    with parts.db.writing() as session:
        project = parts.projects.read("birds").project
        version = EncoderVersion(
            architecture="conv4", options={}, weights=weights, learner=learner, embedding_dim=4
        )
        session.add(version)
        session.flush()
        session.add(ProjectVersion(encoder_id=version.id, project_id=project.id, metrics={}))

    assert sweep(parts.db, parts.blobs) == Swept(0, 0)
    birds.delete("/v1/projects/birds")

    assert sweep(parts.db, parts.blobs) == Swept(2, 0)
    later(parts)
    assert sweep(parts.db, parts.blobs) == Swept(0, 2)


def test_an_upload_takes_the_mark_away(birds, parts, deleted, png):
    image = add(birds, png("red"))

    assert sweep(parts.db, parts.blobs) == Swept(0, 0)
    assert birds.get(f"{path_of(image)}/content").content == png("red")


def test_a_sweep_between_the_file_and_the_row_of_an_upload_loses_nothing(
    birds, parts, deleted, png, monkeypatch
):
    put = Blobs.put
    swept: list[Swept] = []

    def put_and_sweep(blobs, content):
        digest = put(blobs, content)
        if not swept:
            swept.append(sweep(parts.db, parts.blobs))
        return digest

    monkeypatch.setattr(Blobs, "put", put_and_sweep)

    image = add(birds, png("red"))

    assert swept == [Swept(0, 1)]
    assert birds.get(f"{path_of(image)}/content").content == png("red")
    assert marks(parts) == {}


def test_a_file_that_an_upload_finds_while_it_is_removed_is_stored_again(
    birds, parts, deleted, png, monkeypatch
):
    """The upload has seen the file; it waits for the lock under which the file goes."""
    put, take, stored = Blobs.put, Blobs.remove, threading.Event()
    images = []
    thread = threading.Thread(target=lambda: images.append(add(birds, png("red"))))

    def put_and_tell(blobs, content):
        digest = put(blobs, content)
        stored.set()
        return digest

    def remove_meanwhile(blobs, digest):
        thread.start()
        assert stored.wait(PATIENCE_S)
        take(blobs, digest)

    monkeypatch.setattr(Blobs, "put", put_and_tell)
    monkeypatch.setattr(Blobs, "remove", remove_meanwhile)

    assert sweep(parts.db, parts.blobs) == Swept(0, 1)
    thread.join()

    assert birds.get(f"{path_of(images[0])}/content").content == png("red")


def test_an_upload_that_comes_before_the_removal_keeps_the_file(
    birds, parts, deleted, png, monkeypatch
):
    """The file is condemned already, and its mark is gone when the sweep looks at it again."""
    condemned, images = blob_sweep._condemned, []

    def upload_then(db):
        digests = condemned(db)
        images.append(add(birds, png("red")))
        return digests

    monkeypatch.setattr(blob_sweep, "_condemned", upload_then)

    assert sweep(parts.db, parts.blobs) == Swept(0, 0)
    assert birds.get(f"{path_of(images[0])}/content").content == png("red")


def test_a_sweep_that_died_after_the_file_went_is_gone_on_with(birds, parts, deleted, monkeypatch):
    take = Blobs.remove

    def remove_and_die(blobs, digest):
        take(blobs, digest)
        raise KeyboardInterrupt

    monkeypatch.setattr(Blobs, "remove", remove_and_die)
    with pytest.raises(KeyboardInterrupt):
        sweep(parts.db, parts.blobs)
    assert marks(parts) == {deleted["sha256"]: "condemned"}
    monkeypatch.undo()

    assert sweep(parts.db, parts.blobs) == Swept(0, 1)
    assert marks(parts) == {deleted["sha256"]: "gone"}


def test_a_file_that_was_left_again_is_marked_again(birds, parts, deleted, png):
    sweep(parts.db, parts.blobs)
    parts.blobs.put(png("red"))  # of an upload that died before it wrote its row

    assert sweep(parts.db, parts.blobs) == Swept(1, 0)
    later(parts)
    assert sweep(parts.db, parts.blobs) == Swept(0, 1)
