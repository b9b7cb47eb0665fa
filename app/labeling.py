"""Use cases of labeling: add images, label them, classify queries.

Each one gathers, then computes, then writes: no transaction is open during inference.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple
from uuid import UUID

import torch
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from app.db import Database, portions
from app.inference import Embedded, Embedder
from app.metadata import matching
from app.outbox import Event, tell, tell_if_exhausted
from app.prediction import Answer, Asked, ProjectHeads
from app.problems import (
    AlreadyLabeled,
    ImageNotDecodable,
    ImageNotFound,
    NothingToUndo,
    Problem,
)
from app.projects import clean_name, find_label, find_project
from app.storage import Blobs
from app.tables import Annotation, Embedding, Image, Label, Project, Removal, Reservation, now
from app.vectors import Vectors
from app.versions import find_version
from models.embeddings.alignment import Alignment
from models.images import Preprocessing, UnreadableImage, decode, thumbnail
from models.rejection.open_set import Rejection

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


class Failed(NamedTuple):
    """A file that was refused."""

    position: int
    filename: str | None
    problem: Problem


class Added(NamedTuple):
    """What became of the files of a request."""

    stored: list[Stored]
    failed: list[Failed]


class Prediction(NamedTuple):
    """What the project makes of one query image."""

    position: int
    filename: str | None
    answer: Answer


class Classified(NamedTuple):
    """The answer to one classify request."""

    encoder_id: UUID  # that embedded the queries
    predictions: list[Prediction]
    failed: list[Failed]
    rejection: Rejection | None  # from where on an image is unknown, if that was asked for
    bridge: Alignment | None  # to the embeddings of the project's version, if that is another


class ImageView(NamedTuple):
    """An image and its label's name."""

    image: Image
    label: str | None


class Change(NamedTuple):
    """A label to set, or to take back, on one image."""

    image_id: UUID
    label: str | None
    annotator: str | None
    source: str
    replace: bool = True  # also what someone else has said


@dataclass(frozen=True)
class _File:
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
class Labeling:
    """Everything the use cases need, wired once in `app.main`."""

    db: Database
    embedder: Embedder
    blobs: Blobs
    vectors: Vectors
    heads: ProjectHeads
    max_pixels: int

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
        with self.db.reading() as session:
            project_id = find_project(session, project_key).id
        marks = _Marks(label, existing, metadata or {})
        stored: list[Stored] = []
        failed: list[Failed] = []
        for number, (files, refused) in enumerate(_chunks(uploads)):
            failed += refused
            done, undone = self._add_chunk(project_id, files, marks, wait=number > 0)
            stored += done
            failed += undone
        return Added(stored, sorted(failed, key=lambda f: f.position))

    def _add_chunk(
        self,
        project_id: UUID,
        files: list[_File],
        marks: _Marks,
        *,
        wait: bool,
    ) -> Added:
        digests = {file.sha256 for file in files}
        while True:
            with self.db.reading() as session:
                encoder_id = find_project(session, str(project_id)).encoder_id
                known = _known(session, project_id, encoder_id, digests)
            new = list({f.sha256: f for f in files if f.sha256 not in known}.values())
            contents, bulk = [f.content for f in new], wait or marks.label is None
            outcomes = self.embedder.embed(encoder_id, contents, wait=wait, bulk=bulk)
            embedded = {
                f.sha256: o for f, o in zip(new, outcomes, strict=True) if isinstance(o, Embedded)
            }
            refused = {
                f.sha256: o for f, o in zip(new, outcomes, strict=True) if isinstance(o, Problem)
            }
            kept = [f for f in files if f.sha256 not in refused]
            for file in kept:
                # Also what the project has: an image being deleted meanwhile keeps its file.
                self.blobs.put(file.content)
            stored = self._write_chunk(project_id, encoder_id, kept, embedded, marks)
            if stored is not None:
                return Added(
                    stored,
                    [
                        Failed(f.position, f.filename, refused[f.sha256])
                        for f in files
                        if f.sha256 in refused
                    ],
                )

    def _write_chunk(
        self,
        project_id: UUID,
        encoder_id: UUID,
        files: list[_File],
        embedded: dict[str, Embedded],
        marks: _Marks,
    ) -> list[Stored] | None:
        """None when the encoder was promoted, or an image deleted, since we looked."""
        with self.db.writing() as session:
            project = find_project(session, str(project_id), lock=True)
            if project.encoder_id != encoder_id:
                return None
            digests = {file.sha256 for file in files}
            images = {
                view.image.sha256: view
                for view in _image_views(session, project_id, Image.sha256.in_(digests))
            }
            embeddable = digests - embedded.keys()
            if not embeddable <= _known(session, project_id, encoder_id, embeddable):
                return None
            label = _get_or_make_label(session, project, marks.label) if marks.label else None
            revision = project.revision + 1
            new = {
                file.sha256: _new_image(project_id, file, embedded[file.sha256], revision)
                for file in files
                if file.sha256 not in images
            }
            if new:
                project.revision = revision
                session.add_all(new.values())
                session.flush()  # many rows at once
                session.add_all(
                    Embedding(
                        image_id=image.id, encoder_id=encoder_id, vector=embedded[digest].vector
                    )
                    for digest, image in new.items()
                )
            stored = []
            for file in files:
                view = images.get(file.sha256)
                created = view is None
                if view is None:
                    view = ImageView(new[file.sha256], None)
                if marks.metadata.items() - view.image.metadata_.items():
                    view.image.metadata_ = {**view.image.metadata_, **marks.metadata}
                if label is not None and (view.label is None or marks.existing == "relabel"):
                    if _set_label(session, view, label, None, "support", revision):
                        project.revision = revision
                    view = ImageView(view.image, label.name)
                images[file.sha256] = view
                stored.append(
                    Stored(
                        file.position,
                        file.filename,
                        view.image.id,
                        file.sha256,
                        created,
                        view.label,
                    )
                )
            return stored

    def classify(
        self,
        project_key: str,
        uploads: Iterable[Upload],
        asked: Asked,
        query_encoder: UUID | None = None,
        given_up: Callable[[], bool] = lambda: False,
    ) -> Classified:
        """Probabilities of the labels, cosines to their centroids, and what else is asked for.

        Args:
            query_encoder: the version that embeds the queries, if not that of the project.
            given_up: whether the answer is waited for no more; images are left undone then.

        Raises:
            GivenUp: it is waited for no more.
            VersionNotFound: the project cannot use that version.
            NoBridge: its embeddings cannot be mapped to those of the project's version.
            TooFewLabels: fewer than two labels have support images.
            TooFewShots: unknown images are asked for, and the labeled ones are too few to tell.
        """
        with self.db.reading() as session:
            project = find_project(session, project_key)
            version = project.encoder_id
            if query_encoder is not None:
                version = find_version(session, project, query_encoder).id
        # Say that labels are missing before the work, not after.
        fitted = self.heads.fitted(project)
        bridge = None if version == project.encoder_id else self.heads.bridge(project, version)
        rate = asked.false_rejection
        rejection = None if rate is None else fitted.rejection(rate)
        predictions: list[Prediction] = []
        failed: list[Failed] = []
        for number, (files, refused) in enumerate(_chunks(uploads)):
            failed += refused
            contents, later = [f.content for f in files], number > 0
            outcomes = self.embedder.embed(
                version, contents, wait=later, bulk=later, given_up=given_up
            )
            good = []
            for file, outcome in zip(files, outcomes, strict=True):
                if isinstance(outcome, Problem):
                    failed.append(Failed(file.position, file.filename, outcome))
                else:
                    good.append((file, outcome.vector))
            if good:
                queries = torch.stack([vector for _, vector in good]).float()
                if bridge is not None:
                    queries = bridge.cross(queries)
                with self.embedder.stage("post"):
                    answers = fitted.predict(queries, asked)
                    predictions += [
                        Prediction(file.position, file.filename, answer)
                        for (file, _), answer in zip(good, answers, strict=True)
                    ]
        failed.sort(key=lambda f: f.position)
        return Classified(version, predictions, failed, rejection, bridge)

    def image_page(
        self,
        project_key: str,
        *,
        state: Literal["support", "pool"] | None,
        label: str | None,
        after: UUID | None,
        limit: int,
        metadata: Mapping[str, str] | None = None,
        filename: str | None = None,
    ) -> list[ImageView]:
        """Images in the order in which they came."""
        with self.db.reading() as session:
            project = find_project(session, project_key)
            wanted: list[Any] = [*matching(metadata or {}, filename)]
            if state == "support":
                wanted.append(Image.label_id.is_not(None))
            elif state == "pool":
                wanted.append(Image.label_id.is_(None))
            if label is not None:
                wanted.append(Image.label_id == find_label(session, project, label).id)
            if after is not None:
                wanted.append(Image.id > after)
            return _image_views(session, project.id, *wanted, limit=limit)

    def image(self, project_key: str, image_id: UUID) -> ImageView:
        """One image."""
        with self.db.reading() as session:
            return _find_image(session, find_project(session, project_key), image_id)

    def history(
        self, project_key: str, image_id: UUID, after: UUID | None, limit: int
    ) -> list[Annotation]:
        """The changes of an image's label, newest first."""
        with self.db.reading() as session:
            _find_image(session, find_project(session, project_key), image_id)
            query = select(Annotation).where(Annotation.image_id == image_id)
            if after is not None:
                query = query.where(Annotation.id < after)
            return list(session.scalars(query.order_by(Annotation.id.desc()).limit(limit)))

    def delete_image(self, project_key: str, image_id: UUID) -> None:
        """Remove an image, its embeddings and its history; the file goes with the next sweep."""
        with self.db.writing() as session:
            project = find_project(session, project_key, lock=True)
            image = _find_image(session, project, image_id).image
            project.revision += 1
            session.add(
                Removal(image_id=image.id, project_id=project.id, revision=project.revision)
            )
            session.delete(image)

    def content(self, image: Image) -> bytes:
        """The file of an image.

        Raises:
            ImageNotFound: it was deleted and swept since it was looked up.
        """
        try:
            return self.blobs.get(image.sha256)
        except FileNotFoundError as error:
            raise ImageNotFound(f"the file of image {image.id} is gone") from error

    def decoded(self, image: Image, wanted: Preprocessing) -> torch.Tensor:
        """An image as an encoder wants it: uint8, (3, S, S).

        Raises:
            ImageNotFound: its file is gone.
            ImageNotDecodable: its file cannot be read any more.
        """
        try:
            return decode(self.content(image), wanted, max_pixels=self.max_pixels).pixels
        except UnreadableImage as error:
            raise ImageNotDecodable(str(error)) from error

    def thumbnail(self, image: Image, side: int) -> bytes:
        """The image upright within `side` x `side` pixels, as WebP."""
        return thumbnail(self.content(image), side, max_pixels=self.max_pixels)

    def set_label(self, project_key: str, change: Change) -> ImageView:
        """Give an image a label, or with None send it back to the pool."""
        with self.db.writing() as session:
            project = find_project(session, project_key, lock=True)
            return _change(session, project, change)

    def set_metadata(
        self, project_key: str, metadata: Sequence[tuple[UUID, Mapping[str, str]]]
    ) -> list[Failed]:
        """Replace the metadata of images in one transaction; an unknown image fails alone."""
        with self.db.writing() as session:
            project = find_project(session, project_key, lock=True)
            known = set[UUID]()
            for some in portions([image for image, _ in metadata]):
                query = select(Image.id).where(Image.project_id == project.id, Image.id.in_(some))
                known.update(session.scalars(query))
            rows = [{"id": image, "metadata_": new} for image, new in metadata if image in known]
            if rows:
                session.execute(update(Image), rows)
            name = project.name
        return [
            Failed(n, None, ImageNotFound(f"project {name!r} has no image {image}"))
            for n, (image, _) in enumerate(metadata)
            if image not in known
        ]

    def annotate(self, project_key: str, changes: Sequence[Change]) -> list[Failed]:
        """Many changes in one transaction; one that cannot be made fails alone."""
        failed = []
        with self.db.writing() as session:
            project = find_project(session, project_key, lock=True)
            for position, change in enumerate(changes):
                try:
                    _change(session, project, change)
                except Problem as problem:
                    failed.append(Failed(position, None, problem))
        return failed

    def undo(self, project_key: str, image_id: UUID, annotator: str | None) -> ImageView:
        """Take back the last change of an image's label that was not taken back yet.

        Raises:
            NothingToUndo: there is none.
            LabelNotFound: the label it had before has been deleted.
        """
        with self.db.writing() as session:
            project = find_project(session, project_key, lock=True)
            view = _find_image(session, project, image_id)
            last = session.scalar(
                select(Annotation)
                .where(
                    Annotation.image_id == image_id,
                    Annotation.source != "undo",
                    Annotation.undone.is_(False),
                )
                .order_by(Annotation.id.desc())
                .limit(1)
            )
            if last is None:
                raise NothingToUndo(f"image {image_id} has no change that could be taken back")
            label = find_label(session, project, last.previous) if last.previous else None
            last.undone = True
            if _set_label(session, view, label, annotator, "undo", project.revision + 1):
                project.revision += 1
            return ImageView(view.image, label.name if label else None)


def _chunks(uploads: Iterable[Upload]) -> Iterator[tuple[list[_File], list[Failed]]]:
    """Files by the chunk, bounded in number and bytes, beside those that could not be read."""
    files: list[_File] = []
    failed: list[Failed] = []
    size = 0
    for position, upload in zip(itertools.count(), uploads, strict=False):
        if isinstance(upload.content, Problem):
            failed.append(Failed(position, upload.filename, upload.content))
            continue
        if len(files) == CHUNK_IMAGES or (files and size + len(upload.content) > CHUNK_BYTES):
            yield files, failed
            files, failed, size = [], [], 0
        files.append(_File(position, upload.filename, upload.content))
        size += len(upload.content)
    if files or failed:
        yield files, failed


def _known(session: Session, project_id: UUID, encoder_id: UUID, digests: set[str]) -> set[str]:
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


def _image_views(
    session: Session, project_id: UUID, *where: Any, limit: int | None = None
) -> list[ImageView]:
    rows = session.execute(
        select(Image, Label.name)
        .outerjoin(Label, Label.id == Image.label_id)
        .where(Image.project_id == project_id, *where)
        .order_by(Image.id)
        .limit(limit)
    )
    return [ImageView(row[0], row[1]) for row in rows]


def _find_image(session: Session, project: Project, image_id: UUID) -> ImageView:
    views = _image_views(session, project.id, Image.id == image_id)
    if not views:
        raise ImageNotFound(f"project {project.name!r} has no image {image_id}")
    return views[0]


def _new_image(project_id: UUID, file: _File, embedded: Embedded, revision: int) -> Image:
    return Image(
        id=uuid7(),
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
    )


def _get_or_make_label(session: Session, project: Project, name: str) -> Label:
    query = select(Label).where(Label.project_id == project.id, Label.name == name)
    label = session.scalar(query)
    if label is None:
        label = Label(project_id=project.id, name=name)
        session.add(label)
        session.flush()
    return label


def _change(session: Session, project: Project, change: Change) -> ImageView:
    view = _find_image(session, project, change.image_id)
    label = find_label(session, project, change.label) if change.label is not None else None
    if label is not None and not change.replace:
        _refuse_if_answered(session, view, label, change.annotator)
    if _set_label(session, view, label, change.annotator, change.source, project.revision + 1):
        project.revision += 1
    return ImageView(view.image, label.name if label else None)


def _refuse_if_answered(
    session: Session, view: ImageView, label: Label, annotator: str | None
) -> None:
    """Keep what another annotator said, unless this one says the same.

    Raises:
        AlreadyLabeled: holds the answer that is there.
    """
    image = view.image
    if annotator is None or image.label_id in (None, label.id):
        return
    last = session.scalar(
        select(Annotation)
        .where(Annotation.image_id == image.id)
        .order_by(Annotation.id.desc())
        .limit(1)
    )
    if last is None or last.annotator in (None, annotator):
        return
    raise AlreadyLabeled(
        f"{last.annotator!r} has labeled image {image.id} as {view.label!r}; "
        "send replace: true to overrule",
        label=view.label,
        annotator=last.annotator,
        labeled_at=image.labeled_at,
    )


def _set_label(
    session: Session,
    view: ImageView,
    label: Label | None,
    annotator: str | None,
    source: str,
    revision: int,
) -> bool:
    """Change an image's label and remember it; False when it has that label already.

    Either answers whoever holds the image.
    """
    image = view.image
    if label is not None or image.label_id is not None:
        session.execute(
            update(Reservation)
            .where(Reservation.image_id == image.id, Reservation.outcome.is_(None))
            .values(outcome="labeled")
        )
    if image.label_id == (label.id if label else None):
        return False
    image.label_id = label.id if label else None
    image.labeled_at = now() if label else None
    image.revision = revision
    session.add(
        Annotation(
            image_id=image.id,
            label=label.name if label else None,
            previous=view.label,
            annotator=annotator,
            source=source,
        )
    )
    session.flush()
    told = {"image": str(image.id), "label": label.name if label else None, "previous": view.label}
    told |= {"annotator": annotator, "source": source}
    tell(session, image.project_id, Event.LABEL_SET, told)
    if label is not None and view.label is None and source != "support":
        tell_if_exhausted(session, image.project_id)
    return True
