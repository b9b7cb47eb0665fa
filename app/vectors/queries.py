"""How embedding vectors, and the ids of their images, are asked for in SQL."""

from collections.abc import Iterable
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import LargeBinary, Select, String, cast, func, select, type_coerce
from sqlalchemy.orm import Session

from app.problems import ProjectNotFound
from app.sql.tables import Embedding, EncoderVersion, Image, Project, Removal
from app.vectors.files import ID_BYTES


def revision_of(session: Session, project_id: UUID) -> int:
    """At which revision a project is.

    Raises:
        ProjectNotFound: it was deleted.
    """
    revision = session.scalar(select(Project.revision).where(Project.id == project_id))
    if revision is None:
        raise ProjectNotFound(f"project {project_id} was deleted meanwhile")
    return revision


def dim_of(session: Session, encoder_id: UUID) -> int:
    """Components of the vectors of a version."""
    query = select(EncoderVersion.embedding_dim).where(EncoderVersion.id == encoder_id)
    return session.scalar(query) or 0


def living(session: Session) -> tuple[set[UUID], set[UUID]]:
    """The projects and the encoder versions that there are."""
    projects = session.scalars(select(Project.id))
    return set(projects), set(session.scalars(select(EncoderVersion.id)))


def embedded_images(project_id: UUID, encoder_id: UUID, at_once: int) -> Select[UUID, UUID | None]:
    """Images of a project that a version has embedded, and their labels; so many rows at a time."""
    return (
        select(Image.id, Image.label_id)
        .join(Embedding, Embedding.image_id == Image.id)
        .where(Image.project_id == project_id, Embedding.encoder_id == encoder_id)
        .execution_options(yield_per=at_once)
    )


def removed_images(project_id: UUID, since: int) -> Select[UUID]:
    """Images that were deleted from a project after a revision."""
    return select(Removal.image_id).where(
        Removal.project_id == project_id, Removal.revision > since
    )


def with_vectors(images: Select[UUID, UUID | None]) -> Select[UUID, UUID | None, bytes]:
    """Images with their vectors, as they are stored."""
    return images.add_columns(type_coerce(Embedding.vector, LargeBinary))


def packed_ids(ids: Iterable[UUID]) -> NDArray[np.bytes_]:
    """UUIDs as byte strings, which numpy compares as the databases do."""
    return np.frombuffer(b"".join(image_id.bytes for image_id in ids), f"S{ID_BYTES}")


def all_ids(session: Session, images: Select[UUID, UUID | None]) -> NDArray[np.bytes_]:
    """The ids of images; as one long string, since a million UUID objects take seconds."""
    text = func.aggregate_strings(cast(Image.id, String), "")
    joined = session.scalar(images.with_only_columns(text)) or ""
    return np.frombuffer(bytes.fromhex(joined.replace("-", "")), f"S{ID_BYTES}")
