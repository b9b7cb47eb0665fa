"""Content-addressed files: images and weights, named by their SHA-256, never changed."""

import errno
import hashlib
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from mmap import mmap
from pathlib import Path
from typing import IO, Any, NamedTuple

import fsspec

from app.problems import StorageFull, Unavailable

PART_BYTES = 1 << 20  # of a file that is streamed
UNFINISHED_S = 24 * 3600.0  # a file under a temporary name this old belongs to nobody any more
PREFIXES = [f"{number:02x}" for number in range(256)]
log = logging.getLogger("handful.blobs")


class BlobFile(NamedTuple):
    """A file as it lies in the store."""

    sha256: str  # its name, and what its content should have
    size: int


class Blobs:
    """A folder, or a bucket that fsspec can reach, of immutable files.

    A file is whole or absent: it is written under a temporary name, fsynced, renamed, and its
    folder is fsynced, before `put` returns. Buckets give the same promise themselves. What a disk
    has damaged since is mended by the next `put`.
    """

    def __init__(self, url: str) -> None:
        # What other servers store and remove is seen at once only without a cache of listings.
        self._fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self._root = root.rstrip("/")
        self._local = "file" in _protocols(self._fs)
        self._durable: set[Path] = set()  # folders whose own entry is on the disk
        if self._local:
            _make_folder(Path(self._root))

    def put(self, content: bytes | mmap) -> str:
        """Store `content` and return its SHA-256; storing it again mends a file that is damaged.

        In a bucket, which keeps checksums of its own, damage shows in the size alone.

        Raises:
            StorageFull: there is no space left; nothing was stored.
        """
        digest = hashlib.sha256(content).hexdigest()
        with _space_left():
            if self._local:
                self._put_local(digest, content)
            elif (size := self.size(digest)) != len(content):
                _warn_of_damage(digest, size)
                self._fs.pipe_file(self._path(digest), content[:])
        return digest

    def get(self, digest: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: it was never stored, or was swept.
        """
        content: bytes = self._fs.cat_file(self._path(digest))
        return content

    def stream(self, digest: str) -> Iterator[bytes]:
        """The content of a file, a part at a time; opened at once.

        Raises:
            FileNotFoundError: it was never stored, or was swept.
        """
        return _parts(self._fs.open(self._path(digest), "rb"))

    def remove(self, digest: str) -> None:
        """Remove a file that nothing refers to any more, if it is there."""
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._path(digest))

    def size(self, digest: str) -> int | None:
        """Bytes of a file; None if it is not there."""
        try:
            return int(self._fs.info(self._path(digest))["size"])
        except FileNotFoundError:
            return None

    def is_intact(self, digest: str) -> bool:
        """Whether the content of a file is that of which it has its name; reads all of it.

        Raises:
            FileNotFoundError: it is not there.
        """
        content = hashlib.sha256()
        try:
            for part in self.stream(digest):
                content.update(part)
        except FileNotFoundError:
            raise
        except OSError:
            return False  # the disk cannot read it
        return content.hexdigest() == digest

    def files(self) -> Iterator[list[BlobFile]]:
        """Every file, a folder at a time."""
        for prefix in PREFIXES:
            entries = self._fs.find(f"{self._root}/{prefix}", detail=True)
            names = {path.rpartition("/")[2]: entry for path, entry in entries.items()}
            yield [BlobFile(n, int(entry["size"])) for n, entry in names.items() if _is_digest(n)]

    def unfinished(self) -> list[Path]:
        """Files under temporary names, of uploads that died half-way; buckets keep none."""
        partial = Path(self._root).glob("??/*.part-*") if self._local else ()
        return [path for path in partial if _age_s(path) > UNFINISHED_S]

    def free_bytes(self) -> int | None:
        """Free space of the disk below; None in a bucket."""
        return shutil.disk_usage(self._root).free if self._local else None

    def _path(self, digest: str) -> str:
        return f"{self._root}/{digest[:2]}/{digest}"

    def _put_local(self, digest: str, content: bytes | mmap) -> None:
        path = Path(self._path(digest))
        if not _holds(path, content):
            path.parent.mkdir(exist_ok=True)
            partial = path.with_name(f"{digest}.part-{secrets.token_hex(8)}")
            try:
                with partial.open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                partial.rename(path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
        # Also where another request has just renamed the file: its name may be in memory only.
        _fsync_folder(path.parent)
        if path.parent not in self._durable:
            _fsync_folder(path.parent.parent)
            self._durable.add(path.parent)


def _holds(path: Path, content: bytes | mmap) -> bool:
    """Whether a file is there and has this content."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            starts = range(0, len(content), PART_BYTES)
            if size == len(content) and all(
                file.read(PART_BYTES) == content[start : start + PART_BYTES] for start in starts
            ):
                return True
    except FileNotFoundError:
        return False
    except OSError:
        size = None  # the disk cannot read it
    _warn_of_damage(path.name, size or 0)
    return False


def _warn_of_damage(digest: str, size: int | None) -> None:
    if size is not None:
        log.warning("a damaged file of %d bytes is replaced by an upload: %s", size, digest)


def _is_digest(name: str) -> bool:
    return len(name) == 64 and "." not in name


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _parts(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while part := file.read(PART_BYTES):
            yield part


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _make_folder(folder: Path) -> None:
    """Make a folder and those it lies in, whose names are on the disk then."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _fsync_folder(folder.parent)


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _space_left() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(
                "the disk is full: free some space, then send the upload again", retry_after=60
            ) from error
        raise Unavailable(
            f"the image store did not take the file ({error.strerror or type(error).__name__}); "
            "try again later",
            retry_after=10,
        ) from error
