"""Which encoder version serves a project: embed what is missing, then move the pointer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import torch
from sqlalchemy import Select, exists, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.sql.columns import Float16s
from app.sql.conflicts import retry_conflicts
from app.sql.database import Database
from app.sql.head_choices import without_learned
from app.sql.lookups import find_project, find_version, page_of, usable_versions
from app.sql.tables import (
    Embedding,
    EncoderVersion,
    Image,
    Project,
    ProjectVersion,
    TrainingImage,
    now,
)
from app.storage.blobs import Blobs
from app.webhooks.outbox import tell
from handful.contract.webhooks import Event
from models.encoders import Encoder
from models.images import UnreadableImage, decode

CHUNK_IMAGES = 32  # that are embedded and written at once


class VersionView(NamedTuple):
    """An encoder version as a project sees it."""

    version: EncoderVersion
    owned: ProjectVersion | None  # None: pretrained, which every project may use
    images: int  # that it learned from
    current: bool  # whether it serves the project


@dataclass(frozen=True)
class Promotions:
    """Moves projects from one encoder version to another; promoting the parent is the rollback.

    The old version serves until the new one has an embedding of every image. Then the pointer
    moves in one transaction, under the lock that uploads take too, so that no image is missed and
    no vectors of two versions meet.
    """

    db: Database
    blobs: Blobs
    max_pixels: int

    def versions(self, project_key: str, after: UUID | None, limit: int) -> list[VersionView]:
        """The versions that a project can use, newest first."""
        with self.db.reading() as session:
            project = find_project(session, project_key)
            query = usable_versions(project)
            page = page_of(query, EncoderVersion.id, after, limit, newest_first=True)
            return [_view(session, project, version) for version in session.scalars(page)]

    def version(self, project_key: str, version_id: UUID) -> VersionView:
        """One version.

        Raises:
            VersionNotFound: there is none, or it belongs to another project.
        """
        with self.db.reading() as session:
            project = find_project(session, project_key)
            return _view(session, project, find_version(session, project, version_id))

    def training_images(
        self, project_key: str, version_id: UUID, after: UUID | None, limit: int
    ) -> list[TrainingImage]:
        """The labeled images that a version learned from, as they were then."""
        with self.db.reading() as session:
            find_version(session, find_project(session, project_key), version_id)
            query = select(TrainingImage).where(TrainingImage.encoder_id == version_id)
            return list(session.scalars(page_of(query, TrainingImage.image_id, after, limit)))

    def missing(self, project_id: UUID, version_id: UUID) -> int:
        """How many images the version has not embedded yet."""
        with self.db.reading() as session:
            return _count_missing(session, project_id, version_id, ())

    def embed_missing(
        self, project_id: UUID, version_id: UUID, encoder: Encoder, unreadable: set[UUID]
    ) -> Iterator[tuple[int, int]]:
        """Embed all images that the version has not embedded yet, a chunk at a time.

        Args:
            unreadable: images that cannot be decoded any more are added here and left out.

        Yields:
            How many have been embedded, and how many are left.
        """
        embedded = 0
        while True:
            with self.db.reading() as session:
                query = _missing(project_id, version_id, unreadable)
                images = list(session.scalars(query.order_by(Image.id).limit(CHUNK_IMAGES)))
            if not images:
                return
            vectors = self._embed(encoder, images, unreadable)
            self._write(project_id, version_id, vectors)
            embedded += len(vectors)
            with self.db.reading() as session:
                yield embedded, _count_missing(session, project_id, version_id, unreadable)

    def move(
        self,
        session: Session,
        project_id: UUID,
        version_id: UUID,
        unreadable: Sequence[UUID] | set[UUID] = (),
        *,
        instead_of: UUID | None = None,
    ) -> bool:
        """Let a version serve the project from the commit on; False while images are missing.

        Args:
            instead_of: only if this version serves it now.
        """
        project = find_project(session, str(project_id), lock=True)
        if instead_of is not None and project.encoder_id != instead_of:
            return False
        if _count_missing(session, project_id, version_id, unreadable):
            return False
        if project.encoder_id != version_id:
            payload = {"version": str(version_id), "previous": str(project.encoder_id)}
            tell(session, project.id, Event.VERSION_PROMOTED, payload)
            project.encoder_id = version_id
            project.head = without_learned(project.head)
            project.edition += 1
            project.updated_at = now()
        return True

    @retry_conflicts
    def move_if_ready(self, project_key: str, version_id: UUID) -> bool:
        """Let a version serve the project if it has embedded every image."""
        with self.db.writing() as session:
            project = find_project(session, project_key, lock=True)
            find_version(session, project, version_id)
            return self.move(session, project.id, version_id)

    def _embed(
        self, encoder: Encoder, images: list[Image], unreadable: set[UUID]
    ) -> dict[UUID, Float16s]:
        pixels = {}
        for image in images:
            try:
                content = self.blobs.get(image.sha256)
                decoded = decode(content, encoder.preprocessing, max_pixels=self.max_pixels)
            except (UnreadableImage, FileNotFoundError):
                unreadable.add(image.id)
            else:
                pixels[image.id] = decoded.pixels
        if not pixels:
            return {}
        vectors = encoder.embed(torch.stack(list(pixels.values()))).half().cpu().numpy()
        return dict(zip(pixels, vectors, strict=True))

    @retry_conflicts
    def _write(self, project_id: UUID, version_id: UUID, vectors: dict[UUID, Float16s]) -> None:
        """Add embeddings; their images count as changed, so that caches look at them again."""
        with self.db.writing() as session:
            self._add(session, project_id, version_id, vectors)

    def _add(
        self, session: Session, project_id: UUID, version_id: UUID, vectors: dict[UUID, Float16s]
    ) -> None:
        project = session.get(Project, project_id, with_for_update=True)
        present = list(session.scalars(select(Image.id).where(Image.id.in_(vectors))))
        if project is None or not present:
            return  # deleted meanwhile
        project.revision += 1
        session.execute(
            update(Image).where(Image.id.in_(present)).values(revision=project.revision)
        )
        rows = [
            {"image_id": image_id, "encoder_id": version_id, "vector": vectors[image_id]}
            for image_id in present
        ]
        insert = sqlite.insert if self.db.is_sqlite else postgresql.insert
        # Another promotion of the same version may have written some of them.
        session.execute(insert(Embedding).values(rows).on_conflict_do_nothing())


def _view(session: Session, project: Project, version: EncoderVersion) -> VersionView:
    images = select(func.count()).where(TrainingImage.encoder_id == version.id)
    return VersionView(
        version,
        session.get(ProjectVersion, version.id),
        session.scalars(images).one(),
        version.id == project.encoder_id,
    )


def _missing(
    project_id: UUID, version_id: UUID, unreadable: Sequence[UUID] | set[UUID]
) -> Select[Image]:
    embedded = exists().where(Embedding.image_id == Image.id, Embedding.encoder_id == version_id)
    return select(Image).where(
        Image.project_id == project_id, ~embedded, Image.id.not_in(list(unreadable))
    )


def _count_missing(
    session: Session, project_id: UUID, version_id: UUID, unreadable: Sequence[UUID] | set[UUID]
) -> int:
    query = _missing(project_id, version_id, unreadable).with_only_columns(func.count())
    return session.scalars(query).one()
