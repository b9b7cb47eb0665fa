"""Chosen interleavings: one caller waits at a named point until another has done its part."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from sqlalchemy import text

from app.sql.database import Database
from tests.server_process import PATIENCE_S, wait_until

First = TypeVar("First")
Second = TypeVar("Second")
LOCK_WAITS = text(
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


class Barrier:
    """Where the first call of a function waits, once it has come back, until it may go on."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.reached, self.opened = threading.Event(), threading.Event()
        self._first = threading.Lock()

    def __get__(self, instance: object, owner: type | None = None) -> Callable[..., Any]:
        """As a method."""
        return self if instance is None else lambda *a, **o: self(instance, *a, **o)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        result = self.function(*arguments, **options)
        if self._first.acquire(blocking=False):
            self.reached.set()
            assert self.opened.wait(PATIENCE_S), "nobody opened the barrier"
        return result


def interleave(
    owner: object,
    name: str,
    first: Callable[[], First],
    second: Callable[[], Second],
    *,
    locking: Database | None = None,
) -> tuple[First, Second]:
    """Both results; `second` comes while `first` is just behind a function of `owner`.

    Args:
        locking: the database, if `first` is in a transaction there: then `second` may have to wait
            for it. On SQLite whoever writes does, so it is only started.
    """
    barrier = Barrier(getattr(owner, name))
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(owner, name, barrier)
        one = pool.submit(first)
        try:
            wait_until(lambda: barrier.reached.is_set() or one.done())
            assert barrier.reached.is_set(), f"{name} was not called: {one.result()}"
            other = pool.submit(second)
            if locking is None:
                other.result(PATIENCE_S)
            elif locking.is_sqlite:
                wait_until(lambda: other.running() or other.done())
            else:
                wait_until(lambda: other.done() or _somebody_waits(locking))
        finally:
            barrier.opened.set()
        return one.result(PATIENCE_S), other.result(PATIENCE_S)


def _somebody_waits(db: Database) -> bool:
    with db.reading() as session:
        return bool(session.scalar(LOCK_WAITS))
