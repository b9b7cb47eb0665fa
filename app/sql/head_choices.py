"""Which head a project names, and whether that fits the version that serves."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.problems import HeadMismatch, HeadNotFound
from app.sql.tables import LearnedHead, Project

LEARNED = "learned"  # the name of a head that a job has learned


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A head that a job of the project has learned, for the embeddings of one encoder version."""

    learned: UUID  # its id


def document(name: str, options: Any) -> dict[str, Any]:
    """How a project keeps the choice of a head: its name, and its options as JSON."""
    if isinstance(options, Learned):
        return {"name": name, "options": {"learned": str(options.learned)}}
    return {"name": name, "options": asdict(options)}


def without_learned(choice: Mapping[str, Any]) -> dict[str, Any]:
    """What a project would choose with another version: `auto` in the place of a learned head."""
    return {"name": "auto", "options": {}} if choice["name"] == LEARNED else dict(choice)


def require_fit(session: Session, project: Project, choice: Mapping[str, Any]) -> None:
    """Refuse a learned head that does not fit the version that serves a project.

    Raises:
        HeadNotFound: the project has no such head.
        HeadMismatch: it was learned on embeddings of another version.
    """
    version = _version_of(session, project, choice)
    if version not in (None, project.encoder_id):
        fitting = session.scalars(
            select(LearnedHead.id)
            .where(
                LearnedHead.project_id == project.id,
                LearnedHead.encoder_id == project.encoder_id,
            )
            .order_by(LearnedHead.id.desc())
        )
        raise HeadMismatch(
            f"head {choice['options']['learned']} was learned on embeddings of version {version}, "
            f"and version {project.encoder_id} serves: promote that one, or take a head that fits",
            fitting=[str(head_id) for head_id in fitting],
        )


def choices_by_version(
    session: Session,
    project: Project,
    choices: Sequence[dict[str, Any]],
    versions: Sequence[UUID],
) -> list[list[dict[str, Any]]]:
    """The heads that are to be compared on each version; a learned one on its own alone.

    Args:
        choices: none: what the project would have with each version.

    Raises:
        HeadNotFound: the project has no such head.
        HeadMismatch: a learned head was learned on embeddings of none of the versions.
    """
    if not choices:
        return [
            [project.head if version == project.encoder_id else without_learned(project.head)]
            for version in versions
        ]
    fitting: list[list[dict[str, Any]]] = [[] for _ in versions]
    for choice in choices:
        own = _version_of(session, project, choice)
        if own is not None and own not in versions:
            raise HeadMismatch(
                f"head {choice['options']['learned']} was learned on embeddings of version {own}: "
                "name that version, too",
                fitting=[],
            )
        for part, version in zip(fitting, versions, strict=True):
            if own in (None, version):
                part.append(choice)
    return fitting


def _version_of(session: Session, project: Project, choice: Mapping[str, Any]) -> UUID | None:
    """The only version that a head fits, if it was learned."""
    if choice["name"] != LEARNED:
        return None
    return find_learned_head(session, project, UUID(choice["options"]["learned"])).encoder_id


def find_learned_head(session: Session, project: Project, head_id: UUID) -> LearnedHead:
    """A learned head of a project.

    Raises:
        HeadNotFound: the project has no such head.
    """
    head = session.get(LearnedHead, head_id)
    if head is None or head.project_id != project.id:
        raise HeadNotFound(
            f"project {project.name!r} has no learned head {head_id}; "
            f"GET /v1/projects/{project.name}/heads lists them"
        )
    return head
