"""What is looked up again and again: projects, labels, versions by name or id; pages of rows."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Select, exists, or_, select
from sqlalchemy.orm import Session

from app.problems import LabelNotFound, ProjectNotFound, VersionNotFound
from app.sql.tables import EncoderVersion, Image, Label, Project, ProjectVersion

IDS_PER_QUERY = 500
Item = TypeVar("Item")
Query = TypeVar("Query", bound=Select[*tuple[Any, ...]])


def find_project(session: Session, key: str, *, lock: bool = False) -> Project:
    """A project by id or name.

    Args:
        lock: hold the project until commit, so that its encoder and labels stay put.

    Raises:
        ProjectNotFound: there is none.
    """
    project_id = parse_id(key)
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
    label_id = parse_id(key)
    query = (
        select(Label).where(Label.project_id == project.id, Label.id == label_id)
        if label_id
        else label_by_name(project.id, unicodedata.normalize("NFC", key).strip())
    )
    label = session.scalar(query)
    if label is None:
        raise LabelNotFound(
            f"project {project.name!r} has no label {key!r}; "
            f"GET /v1/projects/{project.name}/labels lists them"
        )
    return label


def label_by_name(project_id: UUID, name: str) -> Select[Label]:
    """The label of a project that has a name."""
    return select(Label).where(Label.project_id == project_id, Label.name == name)


def label_names(session: Session, project_id: UUID) -> dict[UUID, str]:
    """The names of a project's labels by their ids, in order of creation."""
    query = select(Label.id, Label.name).where(Label.project_id == project_id)
    return {row[0]: row[1] for row in session.execute(query.order_by(Label.id))}


def find_version(session: Session, project: Project, version_id: UUID) -> EncoderVersion:
    """A version that a project can use.

    Raises:
        VersionNotFound: there is none, or it belongs to another project.
    """
    version = session.scalar(usable_versions(project).where(EncoderVersion.id == version_id))
    if version is None:
        raise VersionNotFound(
            f"project {project.name!r} has no encoder version {version_id}; "
            f"GET /v1/projects/{project.name}/encoders lists them"
        )
    return version


def usable_versions(project: Project) -> Select[EncoderVersion]:
    """The versions that a project can use."""
    owned = ProjectVersion.encoder_id == EncoderVersion.id
    return select(EncoderVersion).where(
        or_(
            exists().where(owned, ProjectVersion.project_id == project.id),
            ~exists().where(owned),
        )
    )


def images_with(
    metadata: Mapping[str, str | Sequence[str]], filename: str | None = None
) -> list[ColumnElement[bool]]:
    """Conditions on images by their metadata and filename; all must hold.

    Args:
        filename: a part of it, in upper or lower case.
    """
    conditions = [
        Image.metadata_[key].as_string().in_([values] if isinstance(values, str) else values)
        for key, values in metadata.items()
    ]
    if filename:
        conditions.append(Image.filename.icontains(filename, autoescape=True))
    return conditions


def page_of(
    query: Query, key: Any, after: UUID | None, limit: int, *, newest_first: bool = False
) -> Query:
    """The rows of a query that come after a row, in the order of their ids.

    Args:
        key: the column of ids.
    """
    if after is not None:
        query = query.where(key < after if newest_first else key > after)
    return query.order_by(key.desc() if newest_first else key).limit(limit)


def portions(items: Sequence[Item], size: int = IDS_PER_QUERY) -> Iterator[Sequence[Item]]:
    """A list, some items at a time: as many as a query may name, or `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def parse_id(text: str) -> UUID | None:
    """The id that a key is, or None: then it is a name."""
    try:
        return UUID(text) if len(text) in (32, 36) else None
    except ValueError:
        return None
