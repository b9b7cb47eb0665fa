"""Use cases of projects and labels: create, find, edit, remove."""

import unicodedata
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db import Database
from app.problems import AlreadyExists, InvalidRequest, LabelNotFound, ProjectNotFound, Stale
from app.tables import (
    NAME_LENGTH,
    Annotation,
    EncoderVersion,
    Image,
    Label,
    Project,
    ProjectVersion,
    now,
)
from app.vectors import Vectors


class ProjectView(NamedTuple):
    """A project with its encoder and its counts."""

    project: Project
    encoder: EncoderVersion
    labels: int
    support: int
    pool: int


class LabelView(NamedTuple):
    """A label and how many support images it has."""

    label: Label
    shots: int


def clean_name(name: str) -> str:
    """A name as we keep it: composed (NFC), without surrounding white space.

    Raises:
        InvalidRequest: it cannot serve as a part of an address.
    """
    cleaned = unicodedata.normalize("NFC", name).strip()
    complaint = _complaint(cleaned)
    if complaint:
        shown = cleaned if len(cleaned) <= 40 else f"{cleaned[:37]}..."
        raise InvalidRequest(f"name {shown!r} {complaint}")
    return cleaned


def _complaint(name: str) -> str | None:
    if not name:
        return "is empty: give at least one visible character"
    if len(name) > NAME_LENGTH:
        return f"has {len(name)} characters: at most {NAME_LENGTH} are allowed"
    if "/" in name or "\\" in name or name in {".", ".."}:
        return "would break the address it becomes part of: leave out slashes and lone dots"
    if any(unicodedata.category(c) in {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"} for c in name):
        return "has a control or unassigned character: leave it out"
    if _uuid(name):
        return "looks like an id: choose another"
    return None


@dataclass(frozen=True)
class Projects:
    """What can be done with projects and labels."""

    db: Database
    default_encoder: UUID
    vectors: Vectors

    def create(self, name: str, description: str, head: dict[str, Any]) -> ProjectView:
        """Make a project that the default encoder serves."""
        name = clean_name(name)
        project = Project(
            name=name, description=description, encoder_id=self.default_encoder, head=head
        )
        try:
            with self.db.writing() as session:
                session.add(project)
        except IntegrityError as error:
            raise AlreadyExists(f"there is already a project named {name!r}") from error
        return self.read(str(project.id))

    def read(self, key: str) -> ProjectView:
        """A project by id or name."""
        with self.db.reading() as session:
            return _views(session, [find_project(session, key)])[0]

    def page(self, after: UUID | None, limit: int) -> list[ProjectView]:
        """Projects in order of creation."""
        query = select(Project).order_by(Project.id).limit(limit)
        if after is not None:
            query = query.where(Project.id > after)
        with self.db.reading() as session:
            return _views(session, list(session.scalars(query)))

    def edit(self, key: str, edition: int | None, changes: dict[str, Any]) -> ProjectView:
        """Change name, description or head.

        Raises:
            Stale: `edition` is given and is not the current one.
        """
        if "name" in changes:
            changes["name"] = clean_name(changes["name"])
        try:
            with self.db.writing() as session:
                project = find_project(session, key, lock=True)
                _check_edition(project.edition, edition)
                for field, value in changes.items():
                    setattr(project, field, value)
                project.edition += 1
                project.updated_at = now()
        except IntegrityError as error:
            raise AlreadyExists(f"there is already a project named {changes['name']!r}") from error
        return self.read(str(project.id))

    def delete(self, key: str, edition: int | None) -> None:
        """Remove a project with its labels, images and history."""
        with self.db.writing() as session:
            project = find_project(session, key, lock=True)
            _check_edition(project.edition, edition)
            # Images refer to labels without a cascade, so they go first.
            session.execute(delete(Image).where(Image.project_id == project.id))
            owned = select(ProjectVersion.encoder_id).where(ProjectVersion.project_id == project.id)
            versions = list(session.scalars(owned))
            session.delete(project)
            session.flush()
            session.execute(delete(EncoderVersion).where(EncoderVersion.id.in_(versions)))
        self.vectors.forget(project.id)

    def create_label(self, key: str, name: str) -> LabelView:
        """Make a label without support images."""
        name = clean_name(name)
        with self.db.writing() as session:
            project = find_project(session, key, lock=True)
            if session.scalar(_label(project.id, name)) is not None:
                raise AlreadyExists(f"project {project.name!r} already has a label {name!r}")
            label = Label(project_id=project.id, name=name)
            session.add(label)
        return LabelView(label, 0)

    def read_label(self, key: str, label_key: str) -> LabelView:
        """A label by id or name."""
        with self.db.reading() as session:
            label = find_label(session, find_project(session, key), label_key)
            return _with_shots(session, [label])[0]

    def label_page(self, key: str, after: UUID | None, limit: int) -> list[LabelView]:
        """Labels in order of creation."""
        with self.db.reading() as session:
            project = find_project(session, key)
            query = select(Label).where(Label.project_id == project.id)
            if after is not None:
                query = query.where(Label.id > after)
            return _with_shots(
                session, list(session.scalars(query.order_by(Label.id).limit(limit)))
            )

    def rename_label(self, key: str, label_key: str, name: str, edition: int | None) -> LabelView:
        """Give a label another name; its support images stay."""
        name = clean_name(name)
        with self.db.writing() as session:
            project = find_project(session, key, lock=True)
            label = find_label(session, project, label_key)
            _check_edition(label.edition, edition)
            taken = session.scalar(_label(project.id, name))
            if taken is not None and taken.id != label.id:
                raise AlreadyExists(f"project {project.name!r} already has a label {name!r}")
            label.name = name
            label.edition += 1
            project.revision += 1
            session.flush()
            return _with_shots(session, [label])[0]

    def delete_label(self, key: str, label_key: str, edition: int | None) -> None:
        """Remove a label; its support images go back to the pool."""
        with self.db.writing() as session:
            project = find_project(session, key, lock=True)
            label = find_label(session, project, label_key)
            _check_edition(label.edition, edition)
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


def find_project(session: Session, key: str, *, lock: bool = False) -> Project:
    """A project by id or name.

    Args:
        lock: hold the project until commit, so that its encoder and labels stay put.

    Raises:
        ProjectNotFound: there is none.
    """
    project_id = _uuid(key)
    name = unicodedata.normalize("NFC", key).strip()
    query = select(Project).where(Project.id == project_id if project_id else Project.name == name)
    project = session.scalar(query.with_for_update() if lock else query)
    if project is None:
        raise ProjectNotFound(f"there is no project {key!r}; GET /v1/projects lists them")
    return project


def find_label(session: Session, project: Project, key: str) -> Label:
    """A label of a project by id or name.

    Raises:
        LabelNotFound: there is none.
    """
    label_id = _uuid(key)
    query = (
        select(Label).where(Label.project_id == project.id, Label.id == label_id)
        if label_id
        else _label(project.id, unicodedata.normalize("NFC", key).strip())
    )
    label = session.scalar(query)
    if label is None:
        raise LabelNotFound(
            f"project {project.name!r} has no label {key!r}; "
            f"GET /v1/projects/{project.name}/labels lists them"
        )
    return label


def _label(project_id: UUID, name: str) -> Select[Label]:
    return select(Label).where(Label.project_id == project_id, Label.name == name)


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text) if len(text) in (32, 36) else None
    except ValueError:
        return None


def _check_edition(current: int, expected: int | None) -> None:
    if expected is not None and expected != current:
        raise Stale(f'If-Match was "{expected}" but the resource is at "{current}"; read it again')


def _views(session: Session, projects: list[Project]) -> list[ProjectView]:
    ids = [project.id for project in projects]
    encoders = {
        encoder.id: encoder
        for encoder in session.scalars(
            select(EncoderVersion).where(EncoderVersion.id.in_({p.encoder_id for p in projects}))
        )
    }
    labels = _counts(session, Label.project_id, ids)
    images = _counts(session, Image.project_id, ids)
    labeled = {
        row[0]: row[1]
        for row in session.execute(
            select(Image.project_id, func.count(Image.label_id))
            .where(Image.project_id.in_(ids))
            .group_by(Image.project_id)
        )
    }
    return [
        ProjectView(
            project,
            encoders[project.encoder_id],
            labels.get(project.id, 0),
            labeled.get(project.id, 0),
            images.get(project.id, 0) - labeled.get(project.id, 0),
        )
        for project in projects
    ]


def _counts(session: Session, column: Any, ids: list[UUID]) -> dict[UUID, int]:
    rows = session.execute(select(column, func.count()).where(column.in_(ids)).group_by(column))
    return {row[0]: row[1] for row in rows}


def _with_shots(session: Session, labels: list[Label]) -> list[LabelView]:
    shots = _counts(session, Image.label_id, [label.id for label in labels])
    return [LabelView(label, shots.get(label.id, 0)) for label in labels]
