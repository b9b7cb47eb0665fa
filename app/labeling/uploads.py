"""Use cases of uploads: store images, in the pool or with a label.

Each one gathers, then computes, then writes: no transaction is open during inference.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from app.inference.embedder import Embedder
from app.inference.images import Embedded
from app.labeling.annotations import set_labels
from app.labeling.images import ImageView, image_views
from app.labeling.projects import clean_name
from app.problems import Failed, Problem
from app.sql.blob_marks import unmark
from app.sql.conflicts import retry_conflicts
from app.sql.database import Database
from app.sql.lookups import find_project, label_by_name
from app.sql.project_cache import ProjectCache
from app.sql.tables import Embedding, Image, Label, Project, id_time
from app.storage.blobs import Blobs

CHUNK_IMAGES = 64  # images per transaction
CHUNK_BYTES = 64 << 20


class Upload(NamedTuple):
    """A file of a request, or why it could not be read."""

    filename: str | None
    content: bytes | Problem


class Stored(NamedTuple):
    """An image that is in the project now."""

    position: int  # in the request
    filename: str | None
    image_id: UUID
    sha256: str
    created: bool  # False when the project had it already
    label: str | None


class Added(NamedTuple):
    """What became of the files of a request."""

    stored: list[Stored]
    failed: list[Failed]


@dataclass(frozen=True)
class ImageFile:
    """A file of a request that could be read."""

    position: int
    filename: str | None
    content: bytes

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


class _Marks(NamedTuple):
    """What all images of an upload get."""

    label: str | None
    existing: Literal["relabel", "keep"]  # of images that have another label
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Uploads:
    """Stores images, in the pool or with a label."""

    db: Database
    projects: ProjectCache
    embedder: Embedder
    blobs: Blobs

    def add(
        self,
        project_key: str,
        uploads: Iterable[Upload],
        *,
        label: str | None = None,
        existing: Literal["relabel", "keep"] = "relabel",
        metadata: Mapping[str, str] | None = None,
    ) -> Added:
        """Store images, in the pool or as support images of `label`, making it if it is new.

        The same file twice is one image. A file that cannot be used fails alone. Large requests
        are stored in chunks, each in one transaction.

        Args:
            existing: whether an image that already has another label gets this one.
            metadata: of all these images; an image keeps what it has under other keys.
        """
        if label is not None:
            label = clean_name(label)
        project_id = self.projects.find(project_key).id
        marks = _Marks(label, existing, metadata or {})
        stored: list[Stored] = []
        failed: list[Failed] = []
        for number, (files, refused) in enumerate(chunks(uploads)):
            failed += refused
            added = self._add_chunk(project_id, files, marks, wait=number > 0)
            stored += added.stored
            failed += added.failed
        return Added(stored, sorted(failed, key=lambda f: f.position))

    def _add_chunk(
        self, project_id: UUID, files: list[ImageFile], marks: _Marks, *, wait: bool
    ) -> Added:
        digests = {file.sha256 for file in files}
        while True:
            with self.db.reading() as session:
                encoder_id = find_project(session, str(project_id)).encoder_id
                present = _embedded_digests(session, project_id, encoder_id, digests)
            new = {f.sha256: f for f in files if f.sha256 not in present}
            contents, bulk = [f.content for f in new.values()], wait or marks.label is None
            results = self.embedder.embed(encoder_id, contents, wait=wait, bulk=bulk)
            outcomes = dict(zip(new, results, strict=True))
            embedded = {d: o for d, o in outcomes.items() if isinstance(o, Embedded)}
            refused = {d: o for d, o in outcomes.items() if isinstance(o, Problem)}
            usable = [f for f in files if f.sha256 not in refused]
            for file in usable:
                # Also what the project has: an image being deleted meanwhile keeps its file.
                self.blobs.put(file.content)
            stored = self._write_chunk(project_id, encoder_id, usable, embedded, marks)
            if stored is not None:
                failed = [
                    Failed(f.position, f.filename, refused[f.sha256])
                    for f in files
                    if f.sha256 in refused
                ]
                return Added(stored, failed)

    @retry_conflicts
    def _write_chunk(
        self,
        project_id: UUID,
        encoder_id: UUID,
        files: list[ImageFile],
        embedded: dict[str, Embedded],
        marks: _Marks,
    ) -> list[Stored] | None:
        """None when the encoder was promoted, an image deleted or a file swept, since we looked."""
        digests = {file.sha256 for file in files}
        with self.db.writing() as session:
            project = find_project(session, str(project_id), lock=True)
            if project.encoder_id != encoder_id or not unmark(session, digests):
                return None
            unchanged = digests - embedded.keys()
            if not unchanged <= _embedded_digests(session, project_id, encoder_id, unchanged):
                return None
            images = image_views(session, project_id, Image.sha256.in_(digests))
            views = {view.image.sha256: view for view in images}
            label = _get_or_create_label(session, project, marks.label) if marks.label else None
            revision = project.revision + 1
            new = [f for f in {f.sha256: f for f in files}.values() if f.sha256 not in views]
            created = _create_images(session, project, new, embedded, revision)
            views |= {digest: ImageView(image, None) for digest, image in created.items()}
            views = {file.sha256: views[file.sha256] for file in files}  # labeled in this order
            _mark(session, project, views, label, marks, revision)
            return [
                Stored(
                    file.position,
                    file.filename,
                    views[file.sha256].image.id,
                    file.sha256,
                    created.pop(file.sha256, None) is not None,
                    views[file.sha256].label,
                )
                for file in files
            ]


def chunks(uploads: Iterable[Upload]) -> Iterator[tuple[list[ImageFile], list[Failed]]]:
    """Files by the chunk, bounded in number and bytes, beside those that could not be read."""
    files: list[ImageFile] = []
    failed: list[Failed] = []
    size = 0
    for position, upload in zip(itertools.count(), uploads, strict=False):
        if isinstance(upload.content, Problem):
            failed.append(Failed(position, upload.filename, upload.content))
            continue
        if len(files) == CHUNK_IMAGES or (files and size + len(upload.content) > CHUNK_BYTES):
            yield files, failed
            files, failed, size = [], [], 0
        files.append(ImageFile(position, upload.filename, upload.content))
        size += len(upload.content)
    if files or failed:
        yield files, failed


def _embedded_digests(
    session: Session, project_id: UUID, encoder_id: UUID, digests: set[str]
) -> set[str]:
    """Which files the project has an embedding of."""
    query = (
        select(Image.sha256)
        .join(Embedding, Embedding.image_id == Image.id)
        .where(
            Image.project_id == project_id,
            Embedding.encoder_id == encoder_id,
            Image.sha256.in_(digests),
        )
    )
    return set(session.scalars(query)) if digests else set()


def _create_images(
    session: Session,
    project: Project,
    files: list[ImageFile],
    embedded: Mapping[str, Embedded],
    revision: int,
) -> dict[str, Image]:
    """Add new images and their embeddings; the images by the SHA-256 of their files."""
    images = {
        file.sha256: _new_image(project.id, file, embedded[file.sha256], revision) for file in files
    }
    if images:
        project.revision = revision
        session.add_all(images.values())
        session.flush()  # many rows at once
        session.add_all(
            Embedding(
                image_id=image.id,
                encoder_id=project.encoder_id,
                vector=embedded[digest].vector.cpu().numpy(),
            )
            for digest, image in images.items()
        )
    return images


def _mark(
    session: Session,
    project: Project,
    views: dict[str, ImageView],
    label: Label | None,
    marks: _Marks,
    revision: int,
) -> None:
    """Give images the metadata of an upload, and its label where that is allowed."""
    for view in views.values():
        if marks.metadata.items() - view.image.metadata_.items():
            view.image.metadata_ = {**view.image.metadata_, **marks.metadata}
    if label is None:
        return
    kept = marks.existing == "keep"
    to_label = {d: view for d, view in views.items() if not (kept and view.label is not None)}
    if set_labels(session, list(to_label.values()), label, None, "support", revision):
        project.revision = revision
    views |= {digest: ImageView(view.image, label.name) for digest, view in to_label.items()}


def _new_image(project_id: UUID, file: ImageFile, embedded: Embedded, revision: int) -> Image:
    image_id = uuid7()
    return Image(
        id=image_id,
        project_id=project_id,
        sha256=file.sha256,
        media_type=embedded.media_type,
        width=embedded.width,
        height=embedded.height,
        bytes=len(file.content),
        filename=file.filename,
        metadata_={},
        revision=revision,
        label_id=None,
        created_at=id_time(image_id),
    )


def _get_or_create_label(session: Session, project: Project, name: str) -> Label:
    label = session.scalar(label_by_name(project.id, name))
    if label is None:
        label = Label(project_id=project.id, name=name)
        session.add(label)
        session.flush()
    return label
