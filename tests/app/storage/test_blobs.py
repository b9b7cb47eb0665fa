"""Content-addressed files."""

import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest

from app.problems import StorageFull, Unavailable
from app.storage.blobs import Blobs

CONTENT = b"some image"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def blobs(tmp_path) -> Blobs:
    return Blobs(str(tmp_path / "blobs"))


@pytest.fixture(params=["folder", "bucket"])
def store(request, tmp_path) -> Blobs:
    """A folder, and something that fsspec reaches."""
    return Blobs(str(tmp_path / "blobs") if request.param == "folder" else f"memory://{tmp_path}")


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def age(path: Path, seconds: float = 7200) -> None:
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_a_file_is_streamed_in_parts_and_a_missing_one_is_known_at_once(store, monkeypatch):
    monkeypatch.setattr("app.storage.blobs.PART_BYTES", 4)
    store.put(CONTENT)

    assert list(store.stream(DIGEST)) == [b"some", b" ima", b"ge"]
    with pytest.raises(FileNotFoundError):
        store.stream("0" * 64)


def test_what_was_put_is_got_by_its_sha256(store):
    assert store.put(CONTENT) == DIGEST
    assert store.put(CONTENT) == DIGEST
    assert store.get(DIGEST) == CONTENT


def test_what_was_never_put_is_not_found(store):
    with pytest.raises(FileNotFoundError):
        store.get("0" * 64)


@pytest.mark.parametrize("damage", [b"", CONTENT[:4], CONTENT + b"?"])
def test_a_file_of_another_size_is_mended_by_the_next_upload(store, damage):
    store.put(CONTENT)
    store._fs.pipe_file(store._path(DIGEST), damage)

    assert store.put(CONTENT) == DIGEST

    assert store.get(DIGEST) == CONTENT


def test_a_file_of_another_content_is_mended_by_the_next_upload(blobs, tmp_path, monkeypatch):
    monkeypatch.setattr("app.storage.blobs.PART_BYTES", 4)  # the damage is in the third part
    blobs.put(CONTENT)
    (path,) = files(tmp_path)
    path.write_bytes(CONTENT[:-1] + b"?")
    assert not blobs.is_intact(DIGEST)

    blobs.put(CONTENT)

    assert blobs.is_intact(DIGEST)
    assert files(tmp_path) == [path]


def test_files_are_listed_with_their_sizes(store, tmp_path):
    other = store.put(b"another image")
    store.put(CONTENT)

    listed = {file.sha256: file.size for folder in store.files() for file in folder}

    assert listed == {DIGEST: len(CONTENT), other: 13}
    assert store.size(DIGEST) == len(CONTENT)
    assert store.size("0" * 64) is None


def test_uploads_that_died_half_way_are_known_by_their_age(blobs, tmp_path):
    blobs.put(CONTENT)
    (path,) = files(tmp_path)
    young, old = (path.with_name(f"{DIGEST}.part-{n}") for n in range(2))
    for partial in young, old:
        partial.write_bytes(b"half")
    age(old, 2 * 24 * 3600)

    assert blobs.unfinished() == [old]
    assert [file.sha256 for folder in blobs.files() for file in folder] == [DIGEST]


def test_a_file_is_on_disk_with_its_folder_before_put_returns(blobs, tmp_path, monkeypatch):
    synced: list[Path] = []
    fsync = os.fsync

    def record(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record)

    blobs.put(CONTENT)

    (path,) = files(tmp_path)
    assert synced[0].name.startswith(f"{DIGEST}.part-")
    assert synced[1:] == [path.parent, path.parent.parent]

    synced.clear()
    blobs.put(CONTENT)

    # Whoever renamed the file may not have got as far as this.
    assert synced == [path.parent]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_stores_nothing_and_says_so(blobs, tmp_path, monkeypatch, code):
    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(StorageFull, match="disk is full") as caught:
        blobs.put(CONTENT)

    assert caught.value.status == 503
    assert files(tmp_path) == []


def test_a_store_that_fails_otherwise_is_unavailable(blobs, monkeypatch):
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)

    with pytest.raises(Unavailable, match="Input/output error"):
        blobs.put(CONTENT)


def test_many_threads_store_the_same_file(blobs, tmp_path):
    threads = [threading.Thread(target=blobs.put, args=(CONTENT,)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(files(tmp_path)) == 1
    assert blobs.get(DIGEST) == CONTENT


def test_only_a_disk_has_free_bytes(blobs, tmp_path):
    assert blobs.free_bytes() > 0
    assert Blobs(f"memory://{tmp_path}").free_bytes() is None
