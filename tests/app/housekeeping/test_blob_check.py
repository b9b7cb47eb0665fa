"""Files that are missing, damaged or of no use are listed, with what to do."""

from pathlib import Path

import pytest
from sqlalchemy import select

from app.housekeeping.blob_check import check
from app.sql.tables import EncoderVersion, Job
from app.storage.blobs import Blobs
from tests import databases
from tests.uploads import upload

database_url = databases.each


@pytest.fixture
def parts(birds):
    return birds.app.state.parts


def problems(parts) -> dict[str, tuple[str, str]]:
    """What is wrong, and the advice, by file."""
    return {p.sha256: (p.problem, p.advice) for p in check(parts.db, parts.blobs)}


def path_of(parts, digest: str) -> Path:
    return Path(parts.blobs._path(digest))


def test_nothing_is_wrong_with_what_was_just_stored(birds, parts, png):
    upload(birds, "/pool", png("red"), png("blue"))

    assert problems(parts) == {}


def test_each_problem_is_told_with_who_needs_the_file(birds, parts, png):
    answer = upload(birds, "/pool", *(png("red", seed) for seed in range(4))).json()["images"]
    images = {image["sha256"]: image["id"] for image in answer}
    _, missing, short, changed = images
    path_of(parts, missing).unlink()
    path_of(parts, short).write_bytes(b"short")
    content = path_of(parts, changed).read_bytes()
    path_of(parts, changed).write_bytes(content[:-1] + b"?")
    orphan = parts.blobs.put(b"orphan")

    listed = {problem.sha256: problem for problem in check(parts.db, parts.blobs)}

    assert {digest: p.problem for digest, p in listed.items()} == {
        missing: "missing",
        short: "damaged",
        changed: "damaged",
        orphan: "orphaned",
    }
    assert [(u.kind, u.id, u.project) for u in listed[short].uses] == [
        ("image", images[short], "birds")
    ]
    assert listed[short].bytes == 5
    assert listed[missing].bytes is None
    assert "upload the same picture again" in listed[missing].advice
    assert listed[short].is_loss
    assert not listed[orphan].is_loss


def test_what_is_listed_is_mended_by_uploading_it_again(birds, parts, png):
    digests = [
        i["sha256"] for i in upload(birds, "/pool", png("red"), png("blue")).json()["images"]
    ]
    path_of(parts, digests[0]).write_bytes(b"")
    path_of(parts, digests[1]).unlink()
    assert len(problems(parts)) == 2

    answer = upload(birds, "/pool", png("red"), png("blue"))

    assert [image["created"] for image in answer.json()["images"]] == [False, False]
    assert problems(parts) == {}


def test_files_of_jobs_and_weights_are_known(birds, parts):
    (weights,) = (file.sha256 for files in parts.blobs.files() for file in files)
    path_of(parts, weights).unlink()
    with parts.db.writing() as session:
        job = Job(
            project_id=parts.projects.read("birds").project.id,
            kind="transduce",
            options={},
            fingerprint="",
        )
        job.checkpoint, job.predictions = "c" * 64, "f" * 64
        session.add(job)
        version = session.scalars(select(EncoderVersion)).one()
        version.learner = "1" * 64

    listed = problems(parts)

    assert "restore the file from a backup" in listed[weights][1]
    assert listed["c" * 64] == ("missing", "nothing: the job starts over")
    assert listed["f" * 64][0] == "missing"
    assert "`adapt` cannot start" in listed["1" * 64][1]
    assert len(listed) == 4


def test_what_comes_while_it_is_looked_at_is_no_problem(birds, parts, png, monkeypatch):
    """A file that was listed before its row was written, or deleted since."""
    listing = Blobs.files

    def list_then_upload(blobs):
        folders = list(listing(blobs))
        upload(birds, "/pool", png("red"))
        return iter(folders)

    orphan = parts.blobs.put(b"orphan")
    monkeypatch.setattr(Blobs, "files", list_then_upload)
    upload(birds, "/pool", png("blue"))

    assert problems(parts).keys() == {orphan}
