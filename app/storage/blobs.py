"""Content-addressed files: images and weights, named by their SHA-256, never changed."""

import errno
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from mmap import mmap
from pathlib import Path
from typing import IO, Any

import fsspec

from app.problems import StorageFull, Unavailable

PART_BYTES = 1 << 20  # of a file that is streamed
GRACE_S = 3600.0  # a file this young may belong to an upload whose row is not written yet


class Blobs:
    """A folder, or a bucket that fsspec can reach, of immutable files.

    A file is whole or absent: it is written under a temporary name, fsynced, renamed, and its
    folder is fsynced, before `put` returns. Buckets give the same promise themselves.
    """

    def __init__(self, url: str) -> None:
        self._fs, root = fsspec.core.url_to_fs(url)
        self._root = root.rstrip("/")
        self._local = "file" in _protocols(self._fs)
        self._durable: set[Path] = set()  # folders whose own entry is on the disk
        if self._local:
            Path(self._root).mkdir(parents=True, exist_ok=True)
            self._restore_set_aside()

    def put(self, content: bytes | mmap) -> str:
        """Store `content` and return its SHA-256; storing it again changes nothing.

        Raises:
            StorageFull: there is no space left; nothing was stored.
        """
        digest = hashlib.sha256(content).hexdigest()
        with _space_left():
            if self._local:
                self._put_local(digest, content)
            elif not self._fs.exists(self._path(digest)):
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

    def sweep(self, in_use: Callable[[str], bool], *, grace_s: float = GRACE_S) -> int:
        """Remove files that nothing refers to and return how many.

        A file is set aside by a rename before it goes, and put back if somebody stored it again
        meanwhile, so a concurrent upload never loses its image.
        """
        removed = 0
        for path in self._fs.find(self._root):
            digest = path.rpartition("/")[2]
            if len(digest) == 64 and self._age_s(path) > grace_s and not in_use(digest):
                removed += self._remove(path, digest, in_use, grace_s)
            elif self._local and ".part-" in digest and self._age_s(path) > grace_s:
                Path(path).unlink(missing_ok=True)  # an upload that died half-way
        return removed

    def free_bytes(self) -> int | None:
        """Free space of the disk below; None in a bucket."""
        return shutil.disk_usage(self._root).free if self._local else None

    def _path(self, digest: str) -> str:
        return f"{self._root}/{digest[:2]}/{digest}"

    def _put_local(self, digest: str, content: bytes | mmap) -> None:
        path = Path(self._path(digest))
        try:
            os.utime(path)  # young again: the sweep keeps it until our row is written
        except FileNotFoundError:
            pass
        else:
            return
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
        _fsync_folder(path.parent)
        if path.parent not in self._durable:
            _fsync_folder(path.parent.parent)
            self._durable.add(path.parent)

    def _age_s(self, path: str) -> float:
        if self._local:
            try:
                return time.time() - Path(path).stat().st_mtime
            except FileNotFoundError:
                return 0.0
        return float(time.time() - self._fs.modified(path).timestamp())

    def _remove(self, path: str, digest: str, in_use: Callable[[str], bool], grace_s: float) -> int:
        if not self._local:
            self._fs.rm_file(path)
            return 1
        aside = Path(f"{path}.aside")
        Path(path).rename(aside)
        if self._age_s(str(aside)) <= grace_s or in_use(digest):
            aside.rename(path)
            return 0
        aside.unlink()
        return 1

    def _restore_set_aside(self) -> None:
        """Put back what a sweep that was killed had set aside; the next sweep decides anew."""
        for aside in Path(self._root).glob("??/*.aside"):
            aside.rename(aside.with_suffix(""))


def _parts(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while part := file.read(PART_BYTES):
            yield part


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


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
