"""The embedding matrices of projects: a cache of SQL, extended by what changed since."""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple
from uuid import UUID

import numpy as np
import torch
from numpy.typing import NDArray
from sqlalchemy import Row, Select, select
from sqlalchemy.orm import Session
from torch import Tensor

from app.problems import ProjectNotFound
from app.sql.database import Database
from app.sql.lookups import label_names
from app.sql.tables import Image, Project
from app.vectors.files import ID_BYTES, VectorFiles, VectorRows, fill
from app.vectors.queries import (
    all_ids,
    dim_of,
    embedded_images,
    living,
    packed_ids,
    removed_images,
    revision_of,
    with_vectors,
)
from app.vectors.running_mean import Mean, RunningMean

POOL = -1  # label code of an image without a label
GONE = -2  # label code of a row whose image is no longer there
ROWS_PER_FETCH = 4096
NONE = np.empty(0, f"S{ID_BYTES}")  # no images
MOST_HOLES = 1024  # rows that may be gone in any matrix; a quarter may in a larger one


class Snapshot(NamedTuple):
    """The embeddings of a project under one encoder version, at one moment."""

    edition: int  # of no other content
    vectors: Tensor  # (M, D), float16
    ids: NDArray[np.uint8]  # (M, 16), the images' UUIDs
    codes: NDArray[np.int32]  # (M,), which of `label_ids`, or POOL, or GONE
    label_ids: list[UUID]
    mean: Mean | None = None  # of support and pool; None: these are not all there

    def image_id(self, row: int) -> UUID:
        return UUID(bytes=self.ids[row].tobytes())

    def rows(self, *, labeled: bool) -> Tensor:
        """Row numbers of the support images, or of the pool."""
        mask = self.codes >= 0 if labeled else self.codes == POOL
        return torch.from_numpy(np.flatnonzero(mask))


class Revision(NamedTuple):
    """A project under one encoder version, all of it at one moment."""

    number: int
    names: dict[UUID, str]  # of the labels, in order of creation
    support: Snapshot
    everything: Snapshot  # with the pool, where that was asked for


class _Key(NamedTuple):
    project_id: UUID
    encoder_id: UUID
    support_only: bool


class Vectors:
    """Matrices by project and encoder version, within a memory limit.

    Those of support and pool lie in files, where there are some, so that a restart does not read
    them from SQL again.
    """

    def __init__(self, db: Database, max_bytes: int, files: VectorFiles | None = None) -> None:
        self._db = db
        self._max_bytes = max_bytes
        self._files = files
        self._editions = itertools.count(1)
        self._matrices: OrderedDict[_Key, _Matrix] = OrderedDict()
        self._lock = threading.Lock()

    def support(self, project_id: UUID, encoder_id: UUID) -> Snapshot:
        """The embeddings of all support images."""
        return self._read(_Key(project_id, encoder_id, support_only=True))[-1][0]

    def everything(self, project_id: UUID, encoder_id: UUID) -> Snapshot:
        """The embeddings of support images and pool, in the order of image ids."""
        return self._read(_Key(project_id, encoder_id, support_only=False))[-1][0]

    def at_once(self, project_id: UUID, encoder_id: UUID, *, everything: bool = True) -> Revision:
        """Support, pool and names of labels at one moment, for an answer that needs several.

        Args:
            everything: whether the pool is needed too.
        """
        parts = (True, False) if everything else (True,)
        number, names, snapshots = self._read(
            *(_Key(project_id, encoder_id, support_only=part) for part in parts)
        )
        return Revision(number, names, snapshots[0], snapshots[-1])

    def forget(self, project_id: UUID) -> None:
        """Let go of a project that was deleted, in memory and in files."""
        with self._lock:
            for key in [key for key in self._matrices if key.project_id == project_id]:
                del self._matrices[key]
        if self._files:
            self._files.remove(project_id)

    def sweep(self) -> None:
        """Remove the files of projects and encoder versions that no longer exist."""
        if not self._files:
            return
        stored = self._files.stored()
        with self._db.reading() as session:
            projects, versions = living(session)
        for project_id, encoder_id in stored:
            if project_id not in projects:
                self._files.remove(project_id)
            elif encoder_id not in versions:
                self._files.remove(project_id, encoder_id)

    def close(self) -> None:
        """Let another process have the files."""
        if self._files:
            self._files.close()

    def _read(self, *keys: _Key) -> tuple[int, dict[UUID, str], list[Snapshot]]:
        """A project's revision and labels, and some of its matrices, in one transaction."""
        project_id = keys[0].project_id
        with self._lock:
            matrices = []
            for key in keys:
                matrix = self._matrices.get(key) or self._matrices.setdefault(
                    key, self._matrix(key)
                )
                self._matrices.move_to_end(key)
                matrix.users += 1
                matrices.append(matrix)
        try:
            with ExitStack() as stack:
                for matrix in matrices:
                    stack.enter_context(matrix.lock)
                # Begun under the locks: it is later than all that the matrices hold.
                session = stack.enter_context(self._db.reading())
                revision = revision_of(session, project_id)
                snapshots = [matrix.refresh(session, revision) for matrix in matrices]
                return revision, label_names(session, project_id), snapshots
        except ProjectNotFound:
            self.forget(project_id)
            raise
        finally:
            with self._lock:
                for matrix in matrices:
                    matrix.users -= 1
                self._evict()

    def _matrix(self, key: _Key) -> "_Matrix":
        if key.support_only:
            return _Support(key, self._editions)
        return _Everything(key, self._editions, self._files)

    def _evict(self) -> None:
        """Forget the matrices used longest ago; the one just read always stays.

        One in use stays too, since another of the same name would write to the same files.
        """
        used = sum(matrix.nbytes for matrix in self._matrices.values())
        for key, matrix in list(self._matrices.items())[:-1]:
            if used > self._max_bytes and not matrix.users:
                used -= matrix.nbytes
                del self._matrices[key]


class _Matrix:
    """One growing matrix. Readers keep views: rows are appended, never overwritten."""

    def __init__(self, key: _Key, editions: Iterator[int]) -> None:
        self.key = key
        self.lock = threading.Lock()
        self.users = 0  # threads that refresh it, or wait to
        self._embedded = embedded_images(key.project_id, key.encoder_id, ROWS_PER_FETCH)
        self._editions = editions
        self._edition = next(editions)
        self._mean: Mean | None = None
        self._running: RunningMean | None = None
        self._revision = -1  # of the project, up to which we have caught up
        self._rows = VectorRows(0)
        self._codes = np.empty(0, np.int32)  # of the rows, and room for more
        self._label_ids: list[UUID] = []
        self._code_of: dict[UUID, int] = {}

    @property
    def nbytes(self) -> int:
        return self._rows.vectors.nbytes

    def refresh(self, session: Session, revision: int) -> Snapshot:
        """Catch up with the database, which is at this revision of the project."""
        if revision != self._revision:
            rows, count, codes = self._rows, self._rows.count, self._codes
            self._codes = codes.copy()  # readers keep the old one
            doubt = self._catch_up(session, revision) or self._missed_removals(session)
            if doubt or self._too_many_holes:
                self._start_again(session, doubt or "many images were deleted")
                self._catch_up(session, revision)
            self._revision = revision
            same = self._rows is rows and self._rows.count == count
            if not same or not np.array_equal(codes[:count], self._codes[:count]):
                self._edition = next(self._editions)
                self._changed()
        return Snapshot(
            self._edition,
            torch.from_numpy(self._rows.vectors),
            self._rows.ids,
            self._codes[: self._rows.count],
            self._label_ids,
            self._mean,
        )

    def _missed_removals(self, session: Session) -> str | None:
        """Why we may have missed one; asked when we have read them, as some may go meanwhile."""
        query = select(Project.removals_from).where(Project.id == self.key.project_id)
        if 0 <= self._revision < (session.scalar(query) or 0):
            return "removals of images are forgotten since"
        return None

    def _changed(self) -> None:
        """Do what a new edition asks for."""

    @property
    def _too_many_holes(self) -> bool:
        holes = np.count_nonzero(self._codes[: self._rows.count] == GONE)
        return bool(holes > max(MOST_HOLES, self._rows.count // 4))

    def _start_again(self, session: Session, why: str) -> None:
        """Forget all rows; what readers hold stays theirs."""
        self._running = None
        self._rows = self._no_rows(dim_of(session, self.key.encoder_id), why)
        self._codes = np.empty(0, np.int32)
        self._label_ids, self._code_of = [], {}
        self._revision = -1

    def _no_rows(self, dim: int, why: str) -> VectorRows:
        return VectorRows(dim)

    def _catch_up(self, session: Session, revision: int) -> str | None:
        """Apply what is newer than our revision; or say why all must be read again."""
        raise NotImplementedError

    def _append(self, rows: Sequence[Row[UUID, UUID | None, bytes]], revision: int) -> None:
        vectors = np.frombuffer(b"".join(row[2] for row in rows), "<f2").astype(np.float16)
        ids = packed_ids(row[0] for row in rows).view(np.uint8).reshape(-1, ID_BYTES)
        codes = np.array([self._code(row[1]) for row in rows], np.int32)
        self._codes = fill(self._codes, self._rows.count, codes)
        self._store(vectors.reshape(len(rows), -1), ids, revision)

    def _store(self, vectors: NDArray[np.float16], ids: NDArray[np.uint8], revision: int) -> None:
        self._rows.append(vectors, ids)

    def _code(self, label_id: UUID | None) -> int:
        if label_id is None:
            return POOL
        code = self._code_of.setdefault(label_id, len(self._label_ids))
        if code == len(self._label_ids):
            self._label_ids.append(label_id)
        return code


class _Support(_Matrix):
    """Support images in the order in which they were labeled, in memory."""

    def __init__(self, key: _Key, editions: Iterator[int]) -> None:
        super().__init__(key, editions)
        self._row_of: dict[UUID, int] = {}

    def _catch_up(self, session: Session, revision: int) -> str | None:
        changed = self._embedded.where(Image.revision > self._revision)
        if self._revision < 0:
            self._rows, self._row_of = VectorRows(dim_of(session, self.key.encoder_id)), {}
        else:
            self._drop(session.scalars(removed_images(self.key.project_id, self._revision)))
            self._drop(session.scalars(changed.where(Image.label_id.is_(None))))
        labeled = with_vectors(changed.where(Image.label_id.is_not(None)))
        for rows in session.execute(labeled).partitions(ROWS_PER_FETCH):
            new = []
            for row in rows:
                place = self._row_of.get(row[0])
                if place is None:
                    new.append(row)
                else:
                    self._codes[place] = self._code(row[1])
            if new:
                self._row_of.update((row[0], self._rows.count + n) for n, row in enumerate(new))
                self._append(new, revision)
        return None

    def _drop(self, images: Iterable[UUID]) -> None:
        for image_id in images:
            if (row := self._row_of.pop(image_id, None)) is not None:
                self._codes[row] = GONE


class _Everything(_Matrix):
    """Support and pool in the order of image ids, so that an id is found by bisection."""

    def __init__(self, key: _Key, editions: Iterator[int], files: VectorFiles | None) -> None:
        super().__init__(key, editions)
        self._files = files
        self._opened = False

    def _changed(self) -> None:
        vectors = torch.from_numpy(self._rows.vectors)
        if self._running is None:
            self._running = RunningMean(vectors.shape[1], self._editions)
        present = self._codes[: self._rows.count] != GONE
        self._mean = self._running.follow(vectors, present)

    def _catch_up(self, session: Session, revision: int) -> str | None:
        rowless = self._update(session) if self._opened else self._open(session, revision)
        if self._rows.count:
            if (rowless < self._keys[-1]).any():
                return "images came out of the order of their ids"
            if not len(rowless):
                return None
        for rows in session.execute(self._newer()).partitions(ROWS_PER_FETCH):
            self._append(rows, revision)
        return None

    def _open(self, session: Session, revision: int) -> NDArray[np.bytes_]:
        """Begin with the rows in files, as far as there are images to them; which have no row."""
        dim = dim_of(session, self.key.encoder_id)
        of = self.key.project_id, self.key.encoder_id
        self._rows = self._files.open(*of, dim, revision) if self._files else VectorRows(dim)
        self._codes = np.full(self._rows.count, GONE, np.int32)
        self._opened = True
        if not self._rows.count:
            return NONE
        places, present = self._find(ids := all_ids(session, self._embedded))
        self._codes[places[present]] = POOL
        self._relabel(session, self._embedded.where(Image.label_id.is_not(None)))
        return ids[~present]

    def _update(self, session: Session) -> NDArray[np.bytes_]:
        """Follow removals and labels; which images have no row."""
        if not self._rows.count:
            return NONE
        removed = session.scalars(removed_images(self.key.project_id, self._revision))
        places, present = self._find(packed_ids(removed))
        self._codes[places[present]] = GONE
        return self._relabel(session, self._embedded.where(Image.revision > self._revision))

    def _relabel(self, session: Session, images: Select[UUID, UUID | None]) -> NDArray[np.bytes_]:
        rowless = [NONE]
        for rows in session.execute(images).partitions(ROWS_PER_FETCH):
            ids = packed_ids(row[0] for row in rows)
            places, present = self._find(ids)
            codes = np.array([self._code(row[1]) for row in rows], np.int32)
            self._codes[places[present]] = codes[present]
            rowless.append(ids[~present])
        return np.concatenate(rowless)

    @property
    def _keys(self) -> NDArray[np.bytes_]:
        """The ids of the rows, as `packed_ids` has them; in order."""
        return self._rows.ids.view(f"S{ID_BYTES}").ravel()

    def _newer(self) -> Select[UUID, UUID | None, bytes]:
        images = with_vectors(self._embedded).order_by(Image.id)
        if self._rows.count:
            images = images.where(Image.id > UUID(bytes=self._rows.ids[-1].tobytes()))
        return images.where(Image.revision > self._revision) if self._revision >= 0 else images

    def _find(self, ids: NDArray[np.bytes_]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Rows of images, and whether they have one."""
        keys = self._keys
        places = np.searchsorted(keys, ids).clip(max=len(keys) - 1)
        return places, keys[places] == ids

    def _no_rows(self, dim: int, why: str) -> VectorRows:
        of = self.key.project_id, self.key.encoder_id
        return self._files.create(*of, dim, why) if self._files else VectorRows(dim)

    def _store(self, vectors: NDArray[np.float16], ids: NDArray[np.uint8], revision: int) -> None:
        try:
            self._rows.append(vectors, ids, revision)
        except OSError as error:
            if self._files:
                self._files.failed(error)
            self._rows = self._rows.in_memory()
            self._rows.append(vectors, ids, revision)
