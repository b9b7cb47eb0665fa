"""Chosen interleavings: one thread waits at a named point until another has done its part."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import text

from app.sql.database import Database
from tests.server_process import PATIENCE_S, wait_until

LOCK_WAITS = text(
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


class Point:
    """Where the first thread that comes along waits until it may go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()
        self._first = threading.Lock()

    def pause(self) -> None:
        """Wait, in the first thread that comes; the others pass."""
        if self._first.acquire(blocking=False):
            self.reached.set()
            assert self.open.wait(PATIENCE_S), "nobody opened the point"


@contextmanager
def paused(
    owner: object, name: str, first: Callable[[], Any], *, before: bool = False
) -> Iterator["Future[Any]"]:
    """Call `first` in a thread, which waits where it has called a function of `owner`.

    Args:
        before: it waits where it is about to call it.

    Yields:
        What `first` comes to, once it waits; it goes on at the end.
    """
    point, function = Point(), getattr(owner, name)

    def stopping(*arguments: Any, **options: Any) -> Any:
        if before:
            point.pause()
        result = function(*arguments, **options)
        if not before:
            point.pause()
        return result

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(owner, name, stopping)
        outcome = pool.submit(first)
        try:
            wait_until(lambda: point.reached.is_set() or outcome.done())
            assert point.reached.is_set(), f"{name} was not called: {outcome.result()}"
            yield outcome
        finally:
            point.open.set()


@contextmanager
def beside(db: Database, second: Callable[[], Any]) -> Iterator["Future[Any]"]:
    """Call `second` in a thread; goes on when it has ended or waits for a lock of the first.

    On SQLite it cannot end before a transaction that writes, and nobody can be asked whether it
    waits.
    """
    with ThreadPoolExecutor(1) as pool:
        started = threading.Event()

        def call() -> Any:
            started.set()
            return second()

        outcome = pool.submit(call)
        if db.is_sqlite:
            started.wait(PATIENCE_S)
        else:
            wait_until(lambda: outcome.done() or _lock_waits(db))
        yield outcome


def _lock_waits(db: Database) -> bool:
    with db.reading() as session:
        return bool(session.scalar(LOCK_WAITS))
