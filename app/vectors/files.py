"""Embeddings in files, memory-mapped: a cache of SQL that is checked when it is opened.

A matrix is two files, its vectors and the ids of their images, and a header that says how many
rows count and what their checksums are. Rows are only appended, and the header is replaced as a
whole after them, so whatever a crash leaves behind is found out by the next one to open it.
"""

import os
import shutil
import struct
import sys
import threading
import weakref
import zlib
from contextlib import suppress
from errno import ENOSPC, ESTALE
from pathlib import Path
from typing import NamedTuple, Self
from uuid import UUID

import numpy as np
import torch
from numpy.typing import NDArray

from app.logs import logger
from models.files import replace_file

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MAGIC = b"handful vectors\x01"  # the last byte counts versions of the format
HEADER = struct.Struct("<16sIQqII")
ID_BYTES = 16
BYTES_PER_READ = 1 << 20
DTYPES = {np.dtype(np.float16): torch.float16, np.dtype(np.uint8): torch.uint8}
log = logger("handful.vectors")


class Doubt(Exception):
    """Files are not to be trusted; the message says why."""


class VectorRows:
    """Vectors and image ids in memory. Readers keep views: rows are appended, never overwritten."""

    def __init__(self, dim: int) -> None:
        self.count = 0
        self._vectors = np.empty((0, dim), np.float16)
        self._ids = np.empty((0, ID_BYTES), np.uint8)

    @property
    def vectors(self) -> NDArray[np.float16]:
        """All vectors, (M, D)."""
        return self._vectors[: self.count]

    @property
    def ids(self) -> NDArray[np.uint8]:
        """The UUIDs of their images, (M, 16)."""
        return self._ids[: self.count]

    def append(
        self, vectors: NDArray[np.float16], ids: NDArray[np.uint8], revision: int = 0
    ) -> None:
        """Add rows at the end.

        Args:
            revision: of the project, when they were read.

        Raises:
            OSError: they cannot be written; nothing has changed.
        """
        self._vectors = fill(self._vectors, self.count, vectors)
        self._ids = fill(self._ids, self.count, ids)
        self.count += len(ids)

    def in_memory(self) -> "VectorRows":
        """A copy that needs no files."""
        copy = VectorRows(self._vectors.shape[1])
        copy.append(self.vectors, self.ids)
        return copy


class MappedRows(VectorRows):
    """Rows in files. While they are mapped, their files are never shortened, only unlinked."""

    def __init__(self, header: Path, dim: int, min_free_bytes: int) -> None:
        super().__init__(dim)
        self._header = header
        self._min_free_bytes = min_free_bytes
        self._dim = dim
        self._files: tuple[_File, _File] | None = None  # made by the first rows

    @classmethod
    def open(cls, header: Path, dim: int, min_free_bytes: int, revision: int) -> Self:
        """The rows that were written and are still as they were.

        Raises:
            Doubt: they are not.
            OSError: they cannot be read.
        """
        rows = cls(header, dim, min_free_bytes)
        content = _read(header)
        if content.dim != dim:
            raise Doubt(f"vectors have {content.dim} components, those of the encoder {dim}")
        if content.revision > revision:
            raise Doubt("they are ahead of the database, which was restored from a backup")
        rows._files = _File.pair(header, dim)
        for file, crc in zip(rows._files, (content.vectors_crc, content.ids_crc), strict=True):
            file.open(content.rows, crc)
        rows._show(content.rows)
        return rows

    def append(
        self, vectors: NDArray[np.float16], ids: NDArray[np.uint8], revision: int = 0
    ) -> None:
        """Add rows to the files."""
        files = self._files or self._create()
        free = shutil.disk_usage(self._header.parent).free
        if free - vectors.nbytes - ids.nbytes < self._min_free_bytes:
            raise OSError(
                ENOSPC, f"{free} bytes are free, of which {self._min_free_bytes} are kept"
            )
        crcs = files[0].write(self.count, vectors), files[1].write(self.count, ids)
        end = self.count + len(ids)
        _write(self._header, _Header(MAGIC, self._dim, end, revision, *crcs))
        for file, crc in zip(files, crcs, strict=True):
            file.crc = crc
        self._files = files
        self._show(end)

    def _create(self) -> "tuple[_File, _File]":
        self._header.parent.mkdir(parents=True, exist_ok=True)
        self._header.unlink(missing_ok=True)  # first, so that it never describes other files
        files = _File.pair(self._header, self._dim)
        for file in files:
            file.create()
        return files

    def _show(self, count: int) -> None:
        if self._files:
            self._vectors, self._ids = (file.rows for file in self._files)  # type: ignore[assignment]
        self.count = count


class VectorFiles:
    """A folder of matrices. It belongs to one process at a time; others do without."""

    def __init__(self, folder: Path, min_free_bytes: int = 0) -> None:
        self._folder = folder
        self._min_free_bytes = min_free_bytes
        self._lock = threading.Lock()
        self._owned: int | None = None  # descriptor of the file that is locked
        self._release: weakref.finalize[[int], VectorFiles] | None = None
        self._events: set[str] = set()  # that were logged

    def open(self, project_id: UUID, encoder_id: UUID, dim: int, revision: int) -> VectorRows:
        """The rows of a project and encoder version that are in files, if any can be trusted.

        Args:
            revision: of the project, now.
        """
        if not self._own():
            return VectorRows(dim)
        try:
            path = self._path(project_id, encoder_id)
            return MappedRows.open(path, dim, self._min_free_bytes, revision)
        except Doubt as doubt:
            return self.create(project_id, encoder_id, dim, str(doubt))
        except OSError as error:
            return self.create(project_id, encoder_id, dim, f"they cannot be read: {error}")

    def create(self, project_id: UUID, encoder_id: UUID, dim: int, why: str) -> VectorRows:
        """No rows, and a place for new ones; the old files go when the first are written."""
        log.info(
            "embeddings are read from the database",
            project=str(project_id), encoder=str(encoder_id), why=why,
        )  # fmt: skip
        if not self._own():
            return VectorRows(dim)
        return MappedRows(self._path(project_id, encoder_id), dim, self._min_free_bytes)

    def stored(self) -> set[tuple[UUID, UUID]]:
        """Which projects and encoder versions have files that this process may remove."""
        keys = set()
        for path in self._folder.glob("*/*.*") if self._own() else ():
            with suppress(ValueError):  # not ours
                keys.add((UUID(path.parent.name), UUID(path.stem)))
        return keys

    def remove(self, project_id: UUID, encoder_id: UUID | None = None) -> None:
        """Remove the files of a project, or of one encoder version; maps of them stay valid."""
        if not self._own():
            return
        if encoder_id is None:
            shutil.rmtree(self._folder / str(project_id), ignore_errors=True)
        else:
            for path in (self._folder / str(project_id)).glob(f"{encoder_id}.*"):
                with suppress(OSError):
                    path.unlink()

    def failed(self, error: OSError) -> None:
        """Say once that embeddings stay in memory, because files cannot be written."""
        self._tell("warning", f"files of embeddings cannot be written: {error.strerror or error}")

    def close(self) -> None:
        """Let another process have the folder."""
        if self._release is not None:
            self._release()
        self._owned = self._release = None

    def _path(self, project_id: UUID, encoder_id: UUID) -> Path:
        return self._folder / str(project_id) / f"{encoder_id}.header"

    def _own(self) -> bool:
        """Take the folder, unless another process has it or it cannot be used."""
        if fcntl is None or sys.byteorder != "little":
            return False
        path = self._folder / "lock"
        with self._lock:
            if self._owned is not None and _is(path, self._owned):
                return True
            self.close()  # somebody deleted the folder
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                owned = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                self.failed(error)
                return False
            try:
                fcntl.flock(owned, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(owned)
                self._tell("info", "files of embeddings belong to another process")
                return False
            self._owned, self._release = owned, weakref.finalize(self, os.close, owned)
            return True

    def _tell(self, level: str, event: str) -> None:
        if event not in self._events:
            self._events.add(event)
            getattr(log, level)(event, folder=str(self._folder), instead="kept in memory")


class _Header(NamedTuple):
    magic: bytes
    dim: int
    rows: int
    revision: int  # of the project, when the last rows were read
    vectors_crc: int
    ids_crc: int


def _read(path: Path) -> _Header:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise Doubt("there is no header") from error
    packed, crc = content[: HEADER.size], content[HEADER.size :]
    if packed[: len(MAGIC)] != MAGIC:
        raise Doubt("the format is unknown")
    if crc != zlib.crc32(packed).to_bytes(4, "little"):
        raise Doubt("the header is damaged")
    return _Header(*HEADER.unpack(packed))


def _write(path: Path, header: _Header) -> None:
    """Replace a header as a whole; not flushed to disk, for checksums tell what a crash left."""
    packed = HEADER.pack(*header)
    replace_file(path, packed + zlib.crc32(packed).to_bytes(4, "little"))


class _File:
    """Rows of one width in a file with room for more; the map reaches to the end of the room."""

    def __init__(self, path: Path, dtype: type[np.generic], width: int) -> None:
        self.rows: NDArray[np.generic] = np.empty((0, width), dtype)
        self.crc = 0  # of the rows that count
        self._path = path
        self._row_bytes = width * self.rows.itemsize
        self._inode: tuple[int, int] | None = None

    @classmethod
    def pair(cls, header: Path, dim: int) -> tuple[Self, Self]:
        return (
            cls(header.with_suffix(".vectors"), np.float16, dim),
            cls(header.with_suffix(".ids"), np.uint8, ID_BYTES),
        )

    def create(self) -> None:
        self._path.unlink(missing_ok=True)  # who has it mapped keeps it
        with self._path.open("xb") as file:
            self._inode = _inode(file.fileno())

    def open(self, count: int, crc: int) -> None:
        """Map a file whose first `count` rows have this checksum.

        They are read, not looked at through the map: where a disk fails, that is an exception.
        """
        remaining = count * self._row_bytes
        try:
            with self._path.open("rb") as file:
                self._inode = _inode(file.fileno())
                room = os.fstat(file.fileno()).st_size // self._row_bytes
                while remaining and (block := file.read(min(remaining, BYTES_PER_READ))):
                    self.crc = zlib.crc32(block, self.crc)
                    remaining -= len(block)
        except FileNotFoundError as error:
            raise Doubt(f"there is no file {self._path.name}") from error
        if remaining:
            raise Doubt(f"{self._path.name} is {remaining} bytes too short")
        if self.crc != crc:
            raise Doubt(f"{self._path.name} has another checksum")
        self._map(room)

    def write(self, at: int, rows: NDArray[np.generic]) -> int:
        """Write rows from row `at` on; the checksum of these and all before."""
        content = np.ascontiguousarray(rows).data.cast("B")
        end, room = at + len(rows), len(self.rows)
        with self._path.open("r+b") as file:
            if _inode(file.fileno()) != self._inode:
                raise OSError(ESTALE, "somebody replaced them")
            file.seek(at * self._row_bytes)
            file.write(content)
            if end > room:
                room = max(end, room * 3 // 2)
                file.flush()
                file.truncate(room * self._row_bytes)
        if room > len(self.rows):
            self._map(room)
        return zlib.crc32(content, self.crc)

    def _map(self, room: int) -> None:
        """Map anew; unlike `mmap`, torch keeps no file open, of which a process may have few."""
        shape = (room, self.rows.shape[1])
        if not room:
            return
        try:
            mapped = torch.from_file(
                str(self._path),
                shared=True,
                size=shape[0] * shape[1],
                dtype=DTYPES[self.rows.dtype],
            )
        except RuntimeError as error:
            raise OSError(f"cannot be mapped: {error}") from error
        self.rows = mapped.numpy().reshape(shape)


def _inode(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _is(path: Path, descriptor: int) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == _inode(descriptor)


def fill(array: NDArray, at: int, rows: NDArray) -> NDArray:  # type: ignore[type-arg]
    """Write rows from position `at` on, in a half larger array when this one is full."""
    end = at + len(rows)
    if end > len(array):
        larger = np.empty((max(end, len(array) * 3 // 2), *rows.shape[1:]), rows.dtype)
        larger[:at] = array[:at]
        array = larger
    array[at:end] = rows
    return array
