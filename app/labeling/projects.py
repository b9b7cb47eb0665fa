"""Use cases of projects: create, find, edit, remove."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.problems import AlreadyExists, InvalidRequest, Stale
from app.sql.conflicts import retry_conflicts
from app.sql.database import Database, seal
from app.sql.head_choices import require_fit
from app.sql.lookups import find_project, page_of, parse_id
from app.sql.tables import EncoderVersion, Image, Label, Project, ProjectVersion, now
from handful.contract.common import NAME_LENGTH


class ProjectView(NamedTuple):
    """A project with its encoder and its counts."""

    project: Project
    encoder: EncoderVersion
    labels: int
    support: int
    pool: int


def clean_name(name: str) -> str:
    """A name as we keep it: composed (NFC), without surrounding white space.

    Raises:
        InvalidRequest: it cannot serve as a part of an address.
    """
    cleaned = unicodedata.normalize("NFC", name).strip()
    complaint = _complaint(cleaned)
    if complaint:
        quoted = cleaned if len(cleaned) <= 40 else f"{cleaned[:37]}..."
        raise InvalidRequest(f"name {quoted!r} {complaint}")
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
    if parse_id(name):
        return "looks like an id: choose another"
    return None


@dataclass(frozen=True)
class Projects:
    """What can be done with projects."""

    db: Database
    default_encoder: UUID
    forget: Callable[[UUID], None]  # what is in memory of a project

    @retry_conflicts
    def create(self, name: str, description: str, head: dict[str, Any]) -> ProjectView:
        """Make a project that the default encoder serves."""
        name = clean_name(name)
        project = Project(
            name=name, description=description, encoder_id=self.default_encoder, head=head
        )
        try:
            with self.db.writing() as session:
                require_fit(session, project, head)
                session.add(project)
                seal(session)
        except IntegrityError as error:
            raise AlreadyExists(f"there is already a project named {name!r}") from error
        return self.read(str(project.id))

    def read(self, key: str) -> ProjectView:
        """A project by id or name."""
        with self.db.reading() as session:
            return _views(session, [find_project(session, key)])[0]

    def page(self, after: UUID | None, limit: int) -> list[ProjectView]:
        """Projects in order of creation."""
        with self.db.reading() as session:
            page = page_of(select(Project), Project.id, after, limit)
            return _views(session, list(session.scalars(page)))

    @retry_conflicts
    def edit(self, key: str, edition: int | None, changes: dict[str, Any]) -> ProjectView:
        """Change name, description or head.

        Raises:
            Stale: `edition` is given and is not the current one.
            HeadNotFound: the project has no such learned head.
            HeadMismatch: the learned head does not fit the version that serves.
        """
        if "name" in changes:
            changes["name"] = clean_name(changes["name"])
        try:
            with self.db.writing() as session:
                project = find_project(session, key, lock=True)
                check_edition(project.edition, edition)
                if "head" in changes:
                    require_fit(session, project, changes["head"])
                for field, value in changes.items():
                    setattr(project, field, value)
                project.edition += 1
                project.updated_at = now()
        except IntegrityError as error:
            raise AlreadyExists(f"there is already a project named {changes['name']!r}") from error
        return self.read(str(project.id))

    @retry_conflicts
    def delete(self, key: str, edition: int | None) -> None:
        """Remove a project with its labels, images and history."""
        with self.db.writing() as session:
            project = find_project(session, key, lock=True)
            check_edition(project.edition, edition)
            # Images refer to labels without a cascade, so they go first.
            session.execute(delete(Image).where(Image.project_id == project.id))
            owned = select(ProjectVersion.encoder_id).where(ProjectVersion.project_id == project.id)
            versions = list(session.scalars(owned))
            session.delete(project)
            session.flush()
            session.execute(delete(EncoderVersion).where(EncoderVersion.id.in_(versions)))
        self.forget(project.id)


def check_edition(current: int, expected: int | None) -> None:
    """Refuse a change of what somebody else has changed.

    Raises:
        Stale: an edition is expected, and it is not the current one.
    """
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
    labels = count_by(session, Label.project_id, ids)
    images = count_by(session, Image.project_id, ids)
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


def count_by(session: Session, column: Any, ids: list[UUID]) -> dict[UUID, int]:
    """Rows by the value of a column, for some of its values."""
    rows = session.execute(select(column, func.count()).where(column.in_(ids)).group_by(column))
    return {row[0]: row[1] for row in rows}
