"""The embedding matrices follow the database."""

import random
from collections.abc import Iterator
from uuid import UUID

import pytest
import torch
from sqlalchemy import select

from app.db import Database, migrate
from app.problems import ProjectNotFound
from app.tables import Embedding, Image, Label, Project, Removal
from app.vectors import Snapshot, Vectors

DIM = 4


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request, tmp_path) -> Iterator[Database]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'test.sqlite'}"
        migrate(url)
    else:
        url = request.getfixturevalue("postgresql")()
    database = Database(url)
    yield database
    database.close()


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
            session.add(Embedding(image_id=image.id, encoder_id=self.version, vector=vector))
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


def test_after_any_history_the_matrix_is_what_the_database_says(db, world):
    chance = random.Random(0)
    vectors = Vectors(db, 1 << 30)
    images: list[UUID] = []
    for step in range(300):
        change = chance.random()
        if change < 0.5 or not images:
            images.append(world.add(chance.randrange(3)))
        elif change < 0.8:
            world.relabel(chance.choice(images), chance.randrange(3))
        else:
            world.remove(images.pop(chance.randrange(len(images))))
        if step % 7 == 0:
            everything = vectors.everything(world.project, world.version)
            support = vectors.support(world.project, world.version)
            assert content(everything) == world.truth(support_only=False)
            assert content(support) == world.truth(support_only=True)


def test_nothing_is_read_again_while_nothing_changes(db, world):
    world.add()
    vectors = Vectors(db, 1 << 30)

    one = vectors.everything(world.project, world.version)
    two = vectors.everything(world.project, world.version)

    assert one.edition == two.edition
    assert one.vectors.data_ptr() == two.vectors.data_ptr()


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


def test_removed_rows_do_not_pile_up(db, world):
    vectors = Vectors(db, 1 << 30)
    for _ in range(1100):
        image = world.add()
        vectors.everything(world.project, world.version)
        world.remove(image)
    world.add()

    snapshot = vectors.everything(world.project, world.version)

    assert len(snapshot.vectors) < 1100
    assert len(content(snapshot)) == 1


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
