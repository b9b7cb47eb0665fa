"""Use cases of labels: the classes of a project."""

from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.labeling.projects import check_edition, clean_name, count_by
from app.problems import AlreadyExists
from app.sql.conflicts import retry_conflicts
from app.sql.database import Database, seal
from app.sql.lookups import find_label, find_project, label_by_name, page_of
from app.sql.tables import Annotation, Image, Label


class LabelView(NamedTuple):
    """A label and how many support images it has."""

    label: Label
    shots: int


@dataclass(frozen=True)
class Labels:
    """What can be done with labels."""

    db: Database

    @retry_conflicts
    def create(self, key: str, name: str) -> LabelView:
        """Make a label without support images."""
        name = clean_name(name)
        with self.db.writing() as session:
            project = find_project(session, key, lock=True)
            if session.scalar(label_by_name(project.id, name)) is not None:
                raise AlreadyExists(f"project {project.name!r} already has a label {name!r}")
            label = Label(project_id=project.id, name=name)
            session.add(label)
            seal(session)
        return LabelView(label, 0)

    def read(self, key: str, label_key: str) -> LabelView:
        """A label by id or name."""
        with self.db.reading() as session:
            label = find_label(session, find_project(session, key), label_key)
            return _with_shots(session, [label])[0]

    def page(self, key: str, after: UUID | None, limit: int) -> list[LabelView]:
        """Labels in order of creation."""
        with self.db.reading() as session:
            project = find_project(session, key)
            query = select(Label).where(Label.project_id == project.id)
            page = page_of(query, Label.id, after, limit)
            return _with_shots(session, list(session.scalars(page)))

    @retry_conflicts
    def rename(self, key: str, label_key: str, name: str, edition: int | None) -> LabelView:
        """Give a label another name; its support images stay."""
        name = clean_name(name)
        with self.db.writing() as session:
            project = find_project(session, key, lock=True)
            label = find_label(session, project, label_key)
            check_edition(label.edition, edition)
            namesake = session.scalar(label_by_name(project.id, name))
            if namesake is not None and namesake.id != label.id:
                raise AlreadyExists(f"project {project.name!r} already has a label {name!r}")
            label.name = name
            label.edition += 1
            project.revision += 1
            session.flush()
            return _with_shots(session, [label])[0]

    @retry_conflicts
    def delete(self, key: str, label_key: str, edition: int | None) -> None:
        """Remove a label; its support images go back to the pool."""
        with self.db.writing() as session:
            project = find_project(session, key, lock=True)
            label = find_label(session, project, label_key)
            check_edition(label.edition, edition)
            project.revision += 1
            images = list(session.scalars(select(Image.id).where(Image.label_id == label.id)))
            session.add_all(
                Annotation(image_id=i, label=None, previous=label.name, source="label-deleted")
                for i in images
            )
            session.execute(
                update(Image)
                .where(Image.label_id == label.id)
                .values(label_id=None, labeled_at=None, revision=project.revision)
            )
            session.delete(label)


def _with_shots(session: Session, labels: list[Label]) -> list[LabelView]:
    """Labels, each with the number of its support images."""
    shots = count_by(session, Image.label_id, [label.id for label in labels])
    return [LabelView(label, shots.get(label.id, 0)) for label in labels]
