"""Database sessions and migrations, on SQLite and PostgreSQL."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import alembic.command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from app.sql.clock import clock

# Older ones can corrupt a WAL database that several processes write
# (https://sqlite.org/wal.html#walresetbug); some distributions carry the fix in older branches.
FIXED_SQLITE = ((3, 51, 3), (3, 50, 7), (3, 44, 6))
BUSY_TIMEOUT_S = 30  # that a transaction waits for a lock
IDLE_TIMEOUT_S = 60  # that PostgreSQL lets a transaction with locks do nothing: its process stopped


# How a request that is done once notes in a transaction that this was its work.
sealing: ContextVar[Callable[[Session], None] | None] = ContextVar("sealing", default=None)


class UnsafeSQLite(RuntimeError):
    """This SQLite has a bug that can corrupt the database."""


class SchemaOutOfDate(RuntimeError):
    """The database was not migrated to this version."""


class Database:
    """Sessions of one short transaction each.

    A writing session takes SQLite's write lock at once (`BEGIN IMMEDIATE`): a transaction that
    starts reading and upgrades later can fail with "database is locked" whatever the timeout.
    """

    def __init__(self, url: str) -> None:
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        self.engine = _sqlite(url) if self.is_sqlite else _postgresql(url)
        self._writer = self.engine.execution_options(handful_writes=True)
        self._writing = threading.Lock()
        self._watching = threading.Lock()
        self._watcher: Any = None  # a connection that changes nothing: its own it would not see
        # All queries of a session see one moment, on PostgreSQL as on SQLite.
        self._reader = (
            self.engine
            if self.is_sqlite
            else self.engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        )

    def observe(self, seconds: Callable[[float], None]) -> None:
        """Tell how long each connection was used: a transaction, waiting for its locks included."""

        @event.listens_for(self.engine, "checkout")
        def on_checkout(_: Any, record: ConnectionPoolEntry, __: Any) -> None:
            record.info["since"] = time.perf_counter()

        @event.listens_for(self.engine, "checkin")
        def on_checkin(_: Any, record: ConnectionPoolEntry) -> None:
            if "since" in record.info:
                seconds(time.perf_counter() - record.info.pop("since"))

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session for queries, which all see the database at the moment of the first."""
        with Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self, wait_s: float | None = None) -> Iterator[Session]:
        """A session that commits at the end, or not at all.

        Args:
            wait_s: that it waits for a lock; None: `BUSY_TIMEOUT_S`.
        """
        writer = self._writer
        if wait_s is not None:
            writer = writer.execution_options(handful_wait_s=wait_s)
        with (
            self._turn_to_write(BUSY_TIMEOUT_S if wait_s is None else wait_s),
            Session(writer, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextmanager
    def _turn_to_write(self, wait_s: float) -> Iterator[None]:
        """Hold a lock of this process while a transaction of SQLite writes.

        SQLite looks for its own lock in growing intervals, of up to a tenth of a second, and who
        came first may get it last. Threads that wait for each other are woken at once.
        """
        if not self.is_sqlite:
            yield
            return
        if not self._writing.acquire(timeout=wait_s):
            locked = _driver().OperationalError("database is locked")
            raise OperationalError("BEGIN IMMEDIATE", None, locked)
        try:
            yield
        finally:
            self._writing.release()

    def clock(self, session: Session) -> datetime:
        """The time of the database, which all processes share."""
        return clock(session)

    def data_version(self) -> int | None:
        """A number that changes with every commit, of any process; None: there is none.

        SQLite keeps it beside the pages, so that no query is needed; PostgreSQL has none.
        """
        if not self.is_sqlite:
            return None
        with self._watching:
            if self._watcher is None:
                self._watcher = self.engine.raw_connection()
            try:
                cursor = self._watcher.cursor()
                return int(cursor.execute("PRAGMA data_version").fetchone()[0])
            except _driver().Error:
                return None  # a query will tell why

    def ping(self) -> None:
        """Raise when the database does not answer."""
        with self.engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def check_schema(self) -> None:
        """Raise unless the schema is the one that this code was written for.

        Raises:
            SchemaOutOfDate: it is older or newer.
        """
        head = _scripts().get_current_head()
        with self.engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
        if current != head:
            raise SchemaOutOfDate(
                f"the database is at revision {current or 'none'} and this version needs {head}: "
                "run `handful migrate`"
            )

    def close(self) -> None:
        """Close every connection."""
        with self._watching:
            if self._watcher is not None:
                self._watcher.close()
                self._watcher = None
        self.engine.dispose()


def seal(session: Session) -> None:
    """Note that this transaction is the work of a request, which is not to be done again.

    To be called by what does harm when it is repeated. Nothing, where nobody may repeat it.
    """
    if (note := sealing.get()) is not None:
        note(session)


def migrate(url: str, revision: str = "head") -> None:
    """Move the schema up or down to `revision`; `base` empties the database."""
    if make_url(url).get_backend_name() == "sqlite" and (path := make_url(url).database):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    config = alembic_config(url)
    database = Database(url)
    try:
        with database.engine.connect() as connection:
            config.attributes["connection"] = connection
            if revision == "base" or re.fullmatch(r"-\d+", revision):
                alembic.command.downgrade(config, revision)
            else:
                _move(config, connection, revision)
    finally:
        database.close()


def _move(config: Config, connection: Connection, revision: str) -> None:
    script = _scripts()
    current = MigrationContext.configure(connection).get_current_revision()
    connection.rollback()
    target = script.get_revision(revision)
    if target is not None and target.revision == current:
        return
    below = {r.revision for r in script.iterate_revisions(current, "base")} if current else set()
    if target is not None and target.revision in below:
        alembic.command.downgrade(config, revision)
    else:
        alembic.command.upgrade(config, revision)


@cache
def _scripts() -> ScriptDirectory:
    """The migrations; they do not change while a process runs."""
    return ScriptDirectory.from_config(alembic_config(""))


def alembic_config(url: str) -> Config:
    """Alembic's configuration; its scripts lie beside the code or, installed, inside it."""
    app = Path(__file__).parent.parent
    scripts = next(p for p in (app / "migrations", app.parent / "migrations") if p.exists())
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = url
    return config


def _sqlite(url: str) -> Engine:
    driver = _driver()
    _refuse_unsafe(driver.sqlite_version_info)
    engine = create_engine(
        url,
        module=driver,
        connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_S},
        pool_size=0,  # none is closed: opening one costs more than a query
    )

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",  # an acknowledged label survives power loss
            "foreign_keys=ON",
            f"busy_timeout={BUSY_TIMEOUT_S * 1000}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if not options.get("handful_writes"):
            connection.exec_driver_sql("BEGIN")
            return
        wait_s = options.get("handful_wait_s")
        if wait_s is not None:
            _wait_for_lock(connection, wait_s)
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        finally:
            if wait_s is not None:
                _wait_for_lock(connection, BUSY_TIMEOUT_S)

    return engine


def _wait_for_lock(connection: Connection, seconds: float) -> None:
    connection.exec_driver_sql(f"PRAGMA busy_timeout={round(seconds * 1000)}")


def _postgresql(url: str) -> Engine:
    engine = create_engine(url, pool_size=20, max_overflow=20, pool_pre_ping=True)

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get("handful_writes"):
            wait_s = options.get("handful_wait_s", BUSY_TIMEOUT_S)
            connection.exec_driver_sql(
                f"SET LOCAL lock_timeout = '{round(wait_s * 1000)}ms'; "
                f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_TIMEOUT_S}s'"
            )

    return engine


def _driver() -> Any:
    """The SQLite module: the bundled one of the `pysqlite3` wheel where it exists."""
    try:
        import pysqlite3.dbapi2 as driver
    except ImportError:
        import sqlite3 as driver
    return driver


def _refuse_unsafe(version: tuple[int, int, int]) -> None:
    newest, *branches = FIXED_SQLITE
    patched = any(version[:2] == b[:2] and version >= b for b in branches)
    if version < newest and not patched:
        raise UnsafeSQLite(
            f"SQLite {'.'.join(map(str, version))} can corrupt a database in WAL mode; "
            "install the package pysqlite3, or use PostgreSQL"
        )
