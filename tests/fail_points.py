"""Points at which files and databases are written, where a test lets something go wrong."""

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

CHANGES = ("INSERT", "UPDATE", "DELETE")


class FailPoints:
    """The points that are passed, of which one fails.

    Args:
        at: number of the point from 0, or its name, at which it fails for the first time.
        die: whether the process ends there, or else an error is raised.
    """

    def __init__(self, at: int | str | None, *, die: bool = False) -> None:
        self.passed: list[str] = []
        self._at, self._die = at, die
        self.failed = False

    def __call__(self, name: str) -> None:
        """Pass a point, just before it is done."""
        here = self._at in (name, len(self.passed)) and not self.failed
        self.passed.append(name)
        if not here:
            return
        if self._die:
            os.kill(os.getpid(), signal.SIGKILL)
        self.failed = True
        if name in CHANGES or name.startswith("commit"):
            raise OperationalError(name, {}, Exception("disk I/O error"))
        raise OSError(errno.EIO, os.strerror(errno.EIO))


class _File:
    """A file that passes a point before each write."""

    def __init__(self, file: Any, point: FailPoints) -> None:
        self._file, self._point = file, point

    def write(self, content: bytes) -> None:
        half = len(content) // 2
        self._file.write(content[:half])
        self._file.flush()
        self._point("write")  # half of it is there
        self._file.write(content[half:])

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def fail_points(at: int | str | None, *, die: bool = False) -> Iterator[FailPoints]:
    """Let one point fail: a file's creation, write, fsync or rename; a change of a row; a commit.

    "committed" comes after a commit: the change is there, and nobody was told.
    """
    point = FailPoints(at, die=die)
    opening, fsync, rename = Path.open, os.fsync, Path.rename

    def open_file(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode != "xb":
            return opening(path, mode, *arguments, **options)
        point("create")
        return _File(opening(path, mode, *arguments, **options), point)

    def flush(handle: int) -> None:
        point("fsync")
        fsync(handle)

    def move(path: Path, target: Path) -> Path:
        point("rename")
        return rename(path, target)

    def execute(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement.startswith(CHANGES):
            point(statement.partition(" ")[0])

    def commit(_: Any) -> None:
        point("commit")

    def committed(_: Any) -> None:
        point("committed")

    listeners = (
        (Engine, "before_cursor_execute", execute),
        (Engine, "commit", commit),
        (Session, "after_commit", committed),
    )
    for target, name, listener in listeners:
        event.listen(target, name, listener)
    try:
        with (
            patch.object(Path, "open", open_file),
            patch.object(os, "fsync", flush),
            patch.object(Path, "rename", move),
        ):
            yield point
    finally:
        for target, name, listener in listeners:
            event.remove(target, name, listener)
