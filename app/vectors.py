"""The embedding matrices of projects: a cache of SQL, extended by what changed since."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import numpy as np
import torch
from numpy.typing import NDArray
from sqlalchemy import LargeBinary, Row, Select, select, type_coerce
from sqlalchemy.orm import Session
from torch import Tensor

from app.db import Database
from app.problems import ProjectNotFound
from app.tables import Embedding, Image, Project, Removal

POOL = -1  # label code of an image without a label
GONE = -2  # label code of a row whose image is no longer there
ROWS_PER_FETCH = 4096


class Snapshot(NamedTuple):
    """The embeddings of a project under one encoder version, at one moment."""

    edition: int  # changes whenever the content does
    vectors: Tensor  # (M, D), float16
    ids: NDArray[np.uint8]  # (M, 16), the images' UUIDs
    codes: NDArray[np.int32]  # (M,), which of `label_ids`, or POOL, or GONE
    label_ids: list[UUID]

    def image_id(self, row: int) -> UUID:
        return UUID(bytes=self.ids[row].tobytes())

    def rows(self, *, labeled: bool) -> Tensor:
        """Row numbers of the support images, or of the pool."""
        chosen = self.codes >= 0 if labeled else self.codes == POOL
        return torch.from_numpy(np.flatnonzero(chosen))


@dataclass(frozen=True)
class _Key:
    project_id: UUID
    encoder_id: UUID
    support_only: bool


class Vectors:
    """Matrices by project and encoder version, within a memory limit."""

    def __init__(self, db: Database, max_bytes: int) -> None:
        self._db = db
        self._max_bytes = max_bytes
        self._matrices: OrderedDict[Hashable, _Matrix] = OrderedDict()
        self._lock = threading.Lock()

    def support(self, project_id: UUID, encoder_id: UUID) -> Snapshot:
        """The embeddings of all support images."""
        return self._read(_Key(project_id, encoder_id, support_only=True))

    def everything(self, project_id: UUID, encoder_id: UUID) -> Snapshot:
        """The embeddings of support images and pool, in the order of image ids."""
        return self._read(_Key(project_id, encoder_id, support_only=False))

    def _read(self, key: _Key) -> Snapshot:
        with self._lock:
            matrix = self._matrices.setdefault(key, _Matrix(key))
            self._matrices.move_to_end(key)
        with matrix.lock, self._db.reading() as session:
            snapshot = matrix.refresh(session)
        with self._lock:
            self._evict()
        return snapshot

    def _evict(self) -> None:
        """Forget the matrices used longest ago; the one just read always stays."""
        used = sum(matrix.nbytes for matrix in self._matrices.values())
        while used > self._max_bytes and len(self._matrices) > 1:
            used -= self._matrices.popitem(last=False)[1].nbytes


class _Matrix:
    """One growing matrix. Readers keep views: rows are appended, never overwritten."""

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.lock = threading.Lock()
        self._edition = 0
        self._revision = -1  # of the project, up to which we have caught up
        self._count = self._holes = 0
        self._vectors: NDArray[np.float16] = np.empty((0, 0), np.float16)
        self._ids: NDArray[np.uint8] = np.empty((0, 16), np.uint8)
        self._codes: NDArray[np.int32] = np.empty(0, np.int32)
        self._label_ids: list[UUID] = []
        self._row_of: dict[UUID, int] = {}
        self._code_of: dict[UUID, int] = {}

    @property
    def nbytes(self) -> int:
        return self._vectors.nbytes

    def refresh(self, session: Session) -> Snapshot:
        """Catch up with the database.

        The revision is read first: what commits while we read may be applied again next time,
        which changes nothing, and is never missed.
        """
        revision = session.scalar(select(Project.revision).where(Project.id == self.key.project_id))
        if revision is None:
            raise ProjectNotFound(f"project {self.key.project_id} was deleted meanwhile")
        if revision != self._revision:
            if not self._catch_up(session) or self._holes > max(1024, self._count // 4):
                self._clear()
                self._catch_up(session)
            self._revision = revision
            self._edition += 1
        return Snapshot(
            self._edition,
            torch.from_numpy(self._vectors[: self._count]),
            self._ids[: self._count],
            self._codes[: self._count],
            self._label_ids,
        )

    def _clear(self) -> None:
        """Forget all rows; what readers hold stays theirs."""
        self._revision = -1
        self._count = self._holes = 0
        self._vectors = np.empty((0, 0), np.float16)
        self._ids = np.empty((0, 16), np.uint8)
        self._codes = np.empty(0, np.int32)
        self._label_ids, self._row_of, self._code_of = [], {}, {}

    def _catch_up(self, session: Session) -> bool:
        """Apply what is newer than our revision; False when a row would break the id order."""
        self._codes = self._codes.copy()  # readers keep the old one
        if self._revision >= 0:
            for image_id in session.scalars(self._removed()):
                self._drop(image_id)
            for image_id in session.scalars(self._unlabeled()) if self.key.support_only else ():
                self._drop(image_id)
        result = session.execute(self._changed())
        for chunk in result.partitions(ROWS_PER_FETCH):
            new = [row for row in chunk if not self._relabel(row)]
            if new and not self._append(new):
                return False
        return True

    def _changed(self) -> Select[UUID, UUID | None, bytes]:
        query = (
            select(Image.id, Image.label_id, type_coerce(Embedding.vector, LargeBinary))
            .join(Embedding, Embedding.image_id == Image.id)
            .where(
                Image.project_id == self.key.project_id,
                Embedding.encoder_id == self.key.encoder_id,
                Image.revision > self._revision,
            )
            .order_by(Image.id)
            .execution_options(yield_per=ROWS_PER_FETCH)
        )
        return query.where(Image.label_id.is_not(None)) if self.key.support_only else query

    def _unlabeled(self) -> Select[UUID]:
        return select(Image.id).where(
            Image.project_id == self.key.project_id,
            Image.revision > self._revision,
            Image.label_id.is_(None),
        )

    def _removed(self) -> Select[UUID]:
        return select(Removal.image_id).where(
            Removal.project_id == self.key.project_id, Removal.revision > self._revision
        )

    def _drop(self, image_id: UUID) -> None:
        row = self._row_of.pop(image_id, None)
        if row is not None:
            self._codes[row] = GONE
            self._holes += 1

    def _relabel(self, row: Row[UUID, UUID | None, bytes]) -> bool:
        """Update an image that we have; False for one that we do not."""
        place = self._row_of.get(row[0])
        if place is None:
            return False
        self._codes[place] = self._code(row[1])
        return True

    def _append(self, rows: list[Row[UUID, UUID | None, bytes]]) -> bool:
        first = rows[0][0].bytes
        ordered = not self._count or first > self._ids[self._count - 1].tobytes()
        if not ordered and not self.key.support_only:
            return False
        vectors = np.frombuffer(b"".join(row[2] for row in rows), "<f2").reshape(len(rows), -1)
        ids = np.frombuffer(b"".join(row[0].bytes for row in rows), np.uint8).reshape(-1, 16)
        codes = np.array([self._code(row[1]) for row in rows], np.int32)
        end = self._count + len(rows)
        self._vectors = _fill(self._vectors, self._count, vectors.astype(np.float16, copy=False))
        self._ids = _fill(self._ids, self._count, ids)
        self._codes = _fill(self._codes, self._count, codes)
        self._row_of.update((row[0], self._count + n) for n, row in enumerate(rows))
        self._count = end
        return True

    def _code(self, label_id: UUID | None) -> int:
        if label_id is None:
            return POOL
        code = self._code_of.setdefault(label_id, len(self._label_ids))
        if code == len(self._label_ids):
            self._label_ids.append(label_id)
        return code


def _fill(array: NDArray, at: int, rows: NDArray) -> NDArray:  # type: ignore[type-arg]
    """Write rows from position `at` on, in a half larger array when this one is full."""
    end = at + len(rows)
    if end > len(array):
        larger = np.empty((max(end, len(array) * 3 // 2), *rows.shape[1:]), rows.dtype)
        larger[:at] = array[:at].reshape(at, *rows.shape[1:]) if at else rows[:0]
        array = larger
    array[at:end] = rows
    return array
