"""Files of embeddings: right, or not used."""

import errno
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from app.vectors import files as vector_files
from app.vectors.files import MappedRows, VectorFiles, VectorRows

DIM = 4
PROJECT, ENCODER = uuid7(), uuid7()

pytestmark = pytest.mark.skipif(
    find_spec("fcntl") is None or sys.byteorder != "little", reason="there are no files here"
)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "vectors"


@pytest.fixture
def files(folder):
    found = VectorFiles(folder)
    yield found
    found.close()


def some(count: int, start: int = 0) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Vectors and ids that tell their number."""
    numbers = np.arange(start, start + count)
    vectors = np.repeat(numbers[:, None], DIM, axis=1).astype(np.float16)
    ids = np.frombuffer(b"".join(int(n).to_bytes(16, "big") for n in numbers), np.uint8)
    return vectors, ids.reshape(-1, 16)


def filled(files, count=100, revision=7):
    rows = files.open(PROJECT, ENCODER, DIM, revision)
    rows.append(*some(count), revision)
    return rows


def reopened(folder, revision=7, dim=DIM):
    files = VectorFiles(folder)
    rows = files.open(PROJECT, ENCODER, dim, revision)
    files.close()
    return rows


def same(rows, count):
    vectors, ids = some(count)
    return np.array_equal(rows.vectors, vectors) and np.array_equal(rows.ids, ids)


def file_of(folder, kind):
    return folder / str(PROJECT) / f"{ENCODER}.{kind}"


def test_rows_are_there_again(files, folder):
    rows = filled(files, 100)
    rows.append(*some(50, 100), 8)
    files.close()

    assert same(rows, 150)
    assert same(reopened(folder, revision=8), 150)


def test_what_was_seen_stays_while_rows_are_added(files):
    rows = filled(files, 10)
    vectors, ids = rows.vectors, rows.ids

    for start in range(10, 1000, 10):
        rows.append(*some(10, start), 8)

    assert same(rows, 1000)
    assert np.array_equal(vectors, some(10)[0])
    assert np.array_equal(ids, some(10)[1])


def test_what_was_seen_stays_when_the_files_are_made_anew(files, folder):
    old = filled(files, 100)

    new = files.create(PROJECT, ENCODER, DIM, "a test")
    new.append(some(30)[0] + 1, some(30)[1], 8)

    assert same(old, 100)
    assert reopened(folder).count == 0  # while another has the folder
    files.close()
    assert reopened(folder, revision=8).vectors[0, 0] == 1


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "there is no header": lambda folder: file_of(folder, "header").unlink(),
    "the header is damaged": lambda folder: flip(file_of(folder, "header"), 20),
    "the format is unknown": lambda folder: file_of(folder, "header").write_bytes(b"{}"),
    "there is no file": lambda folder: file_of(folder, "vectors").unlink(),
    "vectors has another checksum": lambda folder: flip(file_of(folder, "vectors"), 99),
    "ids has another checksum": lambda folder: flip(file_of(folder, "ids"), 99),
    "vectors is 1 bytes too short": lambda folder: os.truncate(file_of(folder, "vectors"), 799),
    "ids is 1600 bytes too short": lambda folder: os.truncate(file_of(folder, "ids"), 0),
    "cannot be read": lambda folder: (
        file_of(folder, "ids").unlink(),
        file_of(folder, "ids").mkdir(),
    ),
}


@pytest.mark.parametrize("why", DAMAGES)
def test_damaged_files_are_not_used_and_it_is_said_why(files, folder, why):
    filled(files, 100)
    files.close()
    DAMAGES[why](folder)

    with capture_logs() as told:
        rows = VectorFiles(folder).open(PROJECT, ENCODER, DIM, 7)

    assert rows.count == 0
    assert [why in entry["why"] for entry in told] == [True]
    assert told[0]["log_level"] == "info"
    if why != "cannot be read":  # a folder in their place is nothing that we would remove
        rows.append(*some(100), 7)
        assert same(rows, 100)


def test_files_of_other_vectors_or_of_a_later_database_are_not_used(files, folder):
    filled(files, 100, revision=7)
    files.close()

    assert reopened(folder, dim=DIM + 1).count == 0
    assert reopened(folder, revision=6).count == 0
    assert reopened(folder, revision=7).count == 100


def test_rows_that_the_header_does_not_know_of_are_overwritten(files, folder):
    rows = filled(files, 100)
    header = file_of(folder, "header").read_bytes()
    rows.append(*some(60, 500), 8)
    files.close()
    file_of(folder, "header").write_bytes(header)  # as if killed before it was replaced

    again = VectorFiles(folder).open(PROJECT, ENCODER, DIM, 8)
    before = again.count
    again.append(*some(20, 100), 8)

    assert before == 100
    assert same(again, 120)


def test_a_failed_write_changes_nothing(files, folder, monkeypatch):
    rows = filled(files, 100)
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(files, "_min_free_bytes", 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))

    with pytest.raises(OSError, match="bytes are free") as caught:
        rows.append(*some(100, 100), 8)

    files.close()
    assert caught.value.errno == errno.ENOSPC
    assert same(rows, 100)
    assert same(rows.in_memory(), 100)
    assert same(reopened(folder, revision=8), 100)


def test_some_of_the_disk_stays_free(folder):
    files = VectorFiles(folder, min_free_bytes=1 << 60)

    with pytest.raises(OSError, match="are kept"):
        files.open(PROJECT, ENCODER, DIM, 7).append(*some(1), 7)

    files.close()


def test_a_header_that_cannot_be_written_leaves_the_rows_before(files, folder, monkeypatch):
    rows = filled(files, 100)

    def full(*_):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(vector_files, "_write", full)
    with pytest.raises(OSError, match="no space left"):
        rows.append(*some(60, 100), 8)

    files.close()
    assert same(rows, 100)
    assert same(reopened(folder), 100)


def test_files_that_somebody_replaced_are_not_written_to(files, folder):
    rows = filled(files, 100)
    shutil.rmtree(folder)
    other = filled(files, 10)  # who comes later makes new ones

    with pytest.raises(OSError, match="replaced"):
        rows.append(*some(10, 100), 8)

    assert same(rows, 100)
    assert same(other, 10)


def test_the_folder_belongs_to_one_at_a_time(files, folder):
    filled(files, 100)
    other = VectorFiles(folder)

    with capture_logs() as told:
        without = [other.open(PROJECT, ENCODER, DIM, 7) for _ in range(2)]
    files.close()
    after = other.open(PROJECT, ENCODER, DIM, 7)
    other.close()

    assert [type(rows) for rows in without] == [VectorRows, VectorRows]
    assert [e["event"] for e in told if e["event"].startswith("files")] == [
        "files of embeddings belong to another process"
    ]
    assert same(after, 100)


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path):
    (tmp_path / "file").touch()
    files = VectorFiles(tmp_path / "file" / "vectors")

    with capture_logs() as told:
        rows = [files.open(PROJECT, ENCODER, DIM, 7) for _ in range(2)]
    rows[0].append(*some(10), 7)

    assert same(rows[0], 10)
    assert [entry["log_level"] for entry in told] == ["warning"]
    assert "cannot be written" in told[0]["event"]
    assert files.stored() == set()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_done_without(folder):
    folder.mkdir()
    folder.chmod(0o500)

    rows = VectorFiles(folder).open(PROJECT, ENCODER, DIM, 7)

    assert type(rows) is VectorRows


def test_where_files_cannot_be_locked_memory_does(folder, monkeypatch):
    monkeypatch.setattr(vector_files, "fcntl", None)

    rows = filled(VectorFiles(folder))

    assert type(rows) is VectorRows
    assert not folder.exists()


def test_a_file_that_cannot_be_mapped_is_an_error_of_files(files, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("unable to mmap: no such device")

    monkeypatch.setattr("torch.from_file", refuse)

    with pytest.raises(OSError, match="cannot be mapped"):
        files.open(PROJECT, ENCODER, DIM, 7).append(*some(1), 7)


def test_many_matrices_hold_no_files_open(files):
    opened = Path("/proc/self/fd")
    before = len(list(opened.iterdir())) if opened.exists() else 0
    held = []
    for _ in range(20):
        held.append(files.open(uuid7(), ENCODER, DIM, 7))
        held[-1].append(*some(10), 7)

    assert all(isinstance(rows, MappedRows) for rows in held)
    if before:
        assert len(list(opened.iterdir())) <= before + 1  # the lock


def test_files_are_listed_and_removed(files, folder):
    rows = filled(files)
    other = uuid7()
    files.open(PROJECT, other, DIM, 7).append(*some(1), 7)
    (folder / "notes").mkdir()
    (folder / "notes" / "of-somebody.txt").touch()

    listed = files.stored()
    files.remove(PROJECT, other)
    after_one = files.stored()
    files.remove(PROJECT)

    assert listed == {(PROJECT, ENCODER), (PROJECT, other)}
    assert after_one == {(PROJECT, ENCODER)}
    assert files.stored() == set()
    assert same(rows, 100)
    assert (folder / "notes" / "of-somebody.txt").exists()
