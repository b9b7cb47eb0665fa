"""The embedding matrices follow the database."""

import errno
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest
import torch
from sqlalchemy import delete, select
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from app.problems import ProjectNotFound
from app.sql.database import Database
from app.sql.tables import Embedding, Image, Label, Project, Removal
from app.vectors import files, matrices
from app.vectors.files import VectorFiles
from app.vectors.matrices import GONE, Snapshot, Vectors
from app.vectors.running_mean import oldest
from tests import databases

DIM = 4


database_url = databases.each


class World:
    """A project whose images come, go and change their labels."""

    def __init__(self, db: Database, version: UUID) -> None:
        self.db, self.version = db, version
        with db.writing() as session:
            project = Project(name="p", head={}, encoder_id=version)
            session.add(project)
            session.flush()
            self.project = project.id
            labels = [Label(project_id=project.id, name=name) for name in "ab"]
            session.add_all(labels)
        self.labels: list[UUID | None] = [None, *(label.id for label in labels)]
        self.count = 0

    def add(self, label: int = 0) -> UUID:
        self.count += 1
        with self.db.writing() as session:
            image = Image(
                project_id=self.project, sha256=f"{self.count:064}", media_type="image/png",
                width=1, height=1, bytes=1, label_id=self.labels[label],
                revision=self._next(session),
            )  # fmt: skip
            session.add(image)
            session.flush()
            vector = torch.full((DIM,), self.count % 1000, dtype=torch.float16)
            session.add(
                Embedding(image_id=image.id, encoder_id=self.version, vector=vector.numpy())
            )
        return image.id

    def relabel(self, image: UUID, label: int) -> None:
        with self.db.writing() as session:
            row = session.get_one(Image, image)
            row.label_id, row.revision = self.labels[label], self._next(session)

    def remove(self, image: UUID) -> None:
        with self.db.writing() as session:
            revision = self._next(session)
            session.add(Removal(image_id=image, project_id=self.project, revision=revision))
            session.delete(session.get_one(Image, image))

    def truth(self, *, support_only: bool) -> dict[UUID, tuple[UUID | None, float]]:
        with self.db.reading() as session:
            rows = session.execute(
                select(Image.id, Image.label_id, Embedding.vector).join(
                    Embedding, Embedding.image_id == Image.id
                )
            ).all()
        return {i: (la, float(v[0])) for i, la, v in rows if la is not None or not support_only}

    def _next(self, session) -> int:
        project = session.get_one(Project, self.project, with_for_update=True)
        project.revision += 1
        return project.revision


@pytest.fixture
def world(db, make_version) -> World:
    return World(db, make_version(db))


def content(snapshot: Snapshot) -> dict[UUID, tuple[UUID | None, float]]:
    found = {}
    for labeled in (True, False):
        for row in snapshot.rows(labeled=labeled).tolist():
            code = int(snapshot.codes[row])
            label = snapshot.label_ids[code] if labeled else None
            found[snapshot.image_id(row)] = (label, float(snapshot.vectors[row, 0]))
    return found


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "vectors"


@contextmanager
def started(world, folder) -> Iterator[Vectors]:
    """Matrices in a folder, as of a service that is started and stopped."""
    vectors = Vectors(world.db, 1 << 30, VectorFiles(folder))
    yield vectors
    vectors.close()


def everything(world, folder) -> Snapshot:
    with started(world, folder) as vectors:
        return vectors.everything(world.project, world.version)


@pytest.fixture
def rows_read(monkeypatch) -> list[int]:
    """How many vectors were read from SQL, a chunk at a time."""
    chunks = []
    append = matrices._Matrix._append

    def counted(matrix, found, revision):
        chunks.append(len(found))
        append(matrix, found, revision)

    monkeypatch.setattr(matrices._Matrix, "_append", counted)
    return chunks


@pytest.mark.parametrize("in_files", [False, True])
def test_after_any_history_the_matrix_is_what_the_database_says(db, world, folder, in_files):
    generator = random.Random(0)
    files = VectorFiles(folder) if in_files else None
    vectors = Vectors(db, 1 << 30, files)
    images: list[UUID] = []
    for step in range(300):
        change = generator.random()
        if change < 0.5 or not images:
            images.append(world.add(generator.randrange(3)))
        elif change < 0.8:
            world.relabel(generator.choice(images), generator.randrange(3))
        else:
            world.remove(images.pop(generator.randrange(len(images))))
        if files and generator.random() < 0.05:
            vectors.close()
            vectors = Vectors(db, 1 << 30, files)
        if step % 7 == 0:
            everything = vectors.everything(world.project, world.version)
            support = vectors.support(world.project, world.version)
            assert content(everything) == world.truth(support_only=False)
            assert content(support) == world.truth(support_only=True)


def test_support_and_pool_are_of_one_moment_whatever_commits_between(db, world, monkeypatch):
    images = [world.add(), world.add(1)]
    vectors = Vectors(db, 1 << 30)
    vectors.at_once(world.project, world.version)
    world.add()
    refresh = matrices._Everything.refresh

    def late(*arguments):
        monkeypatch.undo()  # once
        world.relabel(images[0], 2)
        world.add(1)
        return refresh(*arguments)

    monkeypatch.setattr(matrices._Everything, "refresh", late)

    moments = [vectors.at_once(world.project, world.version) for _ in range(2)]

    for moment, count, labeled in zip(moments, (3, 4), (1, 3), strict=True):
        assert len(content(moment.everything)) == count
        assert len(content(moment.support)) == labeled
        assert content(moment.support).items() <= content(moment.everything).items()
    assert content(moments[1].everything) == world.truth(support_only=False)


def test_nothing_is_read_again_while_nothing_changes(db, world):
    world.add()
    vectors = Vectors(db, 1 << 30)

    one = vectors.everything(world.project, world.version)
    two = vectors.everything(world.project, world.version)

    assert one.edition == two.edition
    assert one.vectors.data_ptr() == two.vectors.data_ptr()


def test_an_upload_to_the_pool_changes_no_support(db, world):
    world.add(1)
    vectors = Vectors(db, 1 << 30)
    support = vectors.support(world.project, world.version).edition
    everything = vectors.everything(world.project, world.version).edition

    world.add()

    assert vectors.support(world.project, world.version).edition == support
    assert vectors.everything(world.project, world.version).edition != everything


def test_the_mean_follows_the_images_and_is_the_same_after_a_restart(db, world):
    vectors = Vectors(db, 1 << 30)
    for number in range(30):
        image = world.add(number % 2)
        if number % 5 == 4:
            world.remove(image)
        found = vectors.everything(world.project, world.version).mean
        again = Vectors(db, 1 << 30).everything(world.project, world.version).mean
        assert torch.equal(found.vector, again.vector)

    snapshot = vectors.everything(world.project, world.version)
    kept = oldest(snapshot.codes != GONE)
    expected = snapshot.vectors[torch.from_numpy(kept)].double().mean(dim=0).float()
    assert torch.equal(snapshot.mean.vector, expected)
    assert vectors.support(world.project, world.version).mean is None


def test_a_snapshot_stays_as_it_was(db, world):
    image = world.add(1)
    vectors = Vectors(db, 1 << 30)
    before = vectors.everything(world.project, world.version)
    known = content(before)

    for _ in range(10):
        world.add()
    world.relabel(image, 0)
    vectors.everything(world.project, world.version)

    assert content(before) == known


def test_removed_rows_do_not_pile_up(db, world, monkeypatch):
    monkeypatch.setattr(matrices, "MOST_HOLES", 20)
    vectors = Vectors(db, 1 << 30)
    for _ in range(30):
        image = world.add()
        vectors.everything(world.project, world.version)
        world.remove(image)
    world.add()

    snapshot = vectors.everything(world.project, world.version)

    assert len(snapshot.vectors) < 30
    assert len(content(snapshot)) == 1


def test_no_two_contents_have_one_edition(db, world):
    world.add(1)
    vectors = Vectors(db, 0)
    before = vectors.support(world.project, world.version).edition

    vectors.everything(world.project, world.version)  # the other is forgotten
    world.add(2)
    after = vectors.support(world.project, world.version).edition

    assert after != before


def test_a_matrix_in_use_is_not_forgotten(db, world):
    world.add(1)
    vectors = Vectors(db, 0)
    vectors.everything(world.project, world.version)
    (matrix,) = vectors._matrices.values()

    matrix.users += 1
    vectors.support(world.project, world.version)
    in_use = len(vectors._matrices)
    matrix.users -= 1
    vectors.support(world.project, world.version)

    assert (in_use, len(vectors._matrices)) == (2, 1)


def test_matrices_used_longest_ago_are_forgotten_beyond_the_limit(db, world):
    world.add(1)
    vectors = Vectors(db, 0)

    vectors.everything(world.project, world.version)
    vectors.support(world.project, world.version)

    assert len(vectors._matrices) == 1


def test_a_deleted_project_has_no_matrix(db, world):
    with db.writing() as session:
        session.delete(session.get_one(Project, world.project))

    with pytest.raises(ProjectNotFound):
        Vectors(db, 0).everything(world.project, world.version)


def test_a_restart_reads_no_vectors_again(world, folder, rows_read):
    for label in (0, 1, 2, 0):
        world.add(label)
    before = content(everything(world, folder))
    first = sum(rows_read)

    after = content(everything(world, folder))

    assert after == before == world.truth(support_only=False)
    assert (first, sum(rows_read)) == (4, 4)


def test_what_happened_between_two_starts_is_seen_and_only_new_vectors_are_read(
    world, folder, rows_read
):
    images = [world.add(n % 3) for n in range(9)]
    everything(world, folder)
    rows_read.clear()

    world.relabel(images[0], 1)
    world.relabel(images[1], 0)
    world.remove(images[2])
    world.remove(images[8])  # the last row
    world.add(0)
    world.add(2)
    snapshot = everything(world, folder)
    once_more = everything(world, folder)

    assert content(snapshot) == content(once_more) == world.truth(support_only=False)
    assert sum(rows_read) == 2


def test_a_change_after_a_restart_is_seen(world, folder):
    images = [world.add(n % 3) for n in range(9)]
    everything(world, folder)

    with started(world, folder) as vectors:
        vectors.everything(world.project, world.version)
        world.relabel(images[0], 2)
        world.remove(images[1])
        world.add(1)
        snapshot = vectors.everything(world.project, world.version)

    assert content(snapshot) == world.truth(support_only=False)


def test_damaged_files_are_read_from_sql_again(world, folder, rows_read):
    for n in range(20):
        world.add(n % 3)
    before = everything(world, folder)
    kept = content(before)
    (path,) = folder.glob("*/*.vectors")
    damaged = bytearray(path.read_bytes())
    damaged[8] ^= 1
    path.unlink()
    path.write_bytes(damaged)

    with capture_logs() as told:
        snapshot = everything(world, folder)

    assert content(snapshot) == content(before) == kept == world.truth(support_only=False)
    assert sum(rows_read) == 40
    assert "checksum" in told[0]["why"]


def test_a_kill_between_rows_and_header_costs_only_those_rows(world, folder, rows_read):
    for n in range(5):
        world.add(n % 3)
    everything(world, folder)
    (header,) = folder.glob("*/*.header")
    old = header.read_bytes()
    removed = world.add(1)
    world.add(2)
    everything(world, folder)
    header.write_bytes(old)
    world.remove(removed)
    rows_read.clear()

    snapshot = everything(world, folder)

    assert content(snapshot) == content(everything(world, folder))
    assert content(snapshot) == world.truth(support_only=False)
    assert sum(rows_read) == 1


@pytest.fixture
def restored(world, folder) -> World:
    """Of what came after the backup, files know more and the database nothing."""
    for n in range(3):
        world.add(n)
    with world.db.reading() as session:
        revision = session.get_one(Project, world.project).revision
    lost = [world.add(n) for n in range(3)]
    everything(world, folder)
    with world.db.writing() as session:
        session.execute(delete(Image).where(Image.id.in_(lost)))
        session.get_one(Project, world.project).revision = revision
    return world


def test_a_database_restored_from_a_backup_is_followed(restored, folder):
    with capture_logs() as logs:
        snapshot = everything(restored, folder)

    assert content(snapshot) == restored.truth(support_only=False)
    assert "backup" in logs[0]["why"]


def test_a_restored_database_that_went_on_is_followed(restored, folder):
    for n in range(5):
        restored.add(n % 3)

    assert content(everything(restored, folder)) == restored.truth(support_only=False)


def test_images_that_files_lack_are_found(world, folder):
    """Embeddings that came later than their images, as a promotion makes them."""
    images = [world.add(n % 3) for n in range(4)]
    with world.db.writing() as session:
        late = session.get_one(Embedding, (images[1], world.version))
        vector = late.vector
        session.delete(late)
    everything(world, folder)
    with world.db.writing() as session:
        session.add(Embedding(image_id=images[1], encoder_id=world.version, vector=vector))

    assert content(everything(world, folder)) == world.truth(support_only=False)


def test_two_services_on_one_folder_are_both_right(world, folder):
    world.add(1)
    with started(world, folder) as one, started(world, folder) as other:
        for step in range(6):
            world.add(step % 3)
            both = [v.everything(world.project, world.version) for v in (one, other)]
            assert content(both[0]) == content(both[1]) == world.truth(support_only=False)

    assert content(everything(world, folder)) == world.truth(support_only=False)


@pytest.mark.parametrize("when", ["from the start", "later"])
def test_a_full_disk_is_served_from_memory(world, folder, monkeypatch, when):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with started(world, folder) as vectors, capture_logs() as told:
        seen = []
        if when == "later":
            world.add(1)
            seen.append(vectors.everything(world.project, world.version))
        monkeypatch.setattr(files._File, "write", full)
        for step in range(4):
            world.add(step % 3)
            seen.append(vectors.everything(world.project, world.version))
            assert content(seen[-1]) == world.truth(support_only=False)
    monkeypatch.undo()

    assert [len(s.vectors) for s in seen] == sorted({len(s.vectors) for s in seen})
    assert len([entry for entry in told if entry["log_level"] == "warning"]) == 1
    assert content(everything(world, folder)) == world.truth(support_only=False)


def test_the_folder_may_be_deleted_at_any_time(world, folder):
    world.add(1)
    with started(world, folder) as vectors:
        before = vectors.everything(world.project, world.version)
        known = content(before)
        shutil.rmtree(folder)
        world.add(2)
        after = vectors.everything(world.project, world.version)

        assert content(before) == known
        assert content(after) == world.truth(support_only=False)
    assert content(everything(world, folder)) == world.truth(support_only=False)


def test_too_many_holes_are_closed_after_a_restart(world, folder, monkeypatch):
    monkeypatch.setattr(matrices, "MOST_HOLES", 2)
    images = [world.add(n % 3) for n in range(8)]
    old = everything(world, folder)
    known = content(old)
    for image in images[1:4]:
        world.remove(image)

    snapshot = everything(world, folder)

    assert len(snapshot.vectors) == 5
    assert content(snapshot) == world.truth(support_only=False)
    assert content(old) == known


def test_files_go_with_their_project(world, folder):
    world.add(1)
    with started(world, folder) as vectors:
        vectors.everything(world.project, world.version)
        with world.db.writing() as session:
            session.delete(session.get_one(Project, world.project))
        with pytest.raises(ProjectNotFound):
            vectors.everything(world.project, world.version)

        assert not vectors._matrices
        assert list(folder.glob("*/*")) == []


def test_a_sweep_removes_what_no_longer_exists_and_nothing_else(world, folder):
    world.add(1)
    everything(world, folder)
    (header,) = folder.glob("*/*.header")
    strays = [folder / str(uuid7()) / header.name, header.with_name(f"{uuid7()}.ids")]
    for stray in strays:
        stray.parent.mkdir(exist_ok=True)
        stray.touch()

    with started(world, folder) as vectors:
        vectors.sweep()

    assert not any(stray.exists() for stray in strays)
    assert not strays[0].parent.exists()
    assert sorted(path.suffix for path in folder.glob("*/*")) == [".header", ".ids", ".vectors"]
