"""Sessions and migrations, on both databases."""

import sqlite3
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.exc import DBAPIError, OperationalError

from app.problems import DatabaseUnavailable
from app.sql import database as module
from app.sql.columns import Table
from app.sql.database import Database, SchemaOutOfDate, UnsafeSQLite, migrate
from app.sql.outages import from_database
from app.sql.tables import Project


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> str:
    """An empty database that no migration has seen."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.sqlite'}"
    return request.getfixturevalue("postgresql")("template0")


@pytest.fixture
def db(url):
    migrate(url)
    database = Database(url)
    yield database
    database.close()


def tables(url) -> set[str]:
    database = Database(url)
    found = set(sa.inspect(database.engine).get_table_names()) - {"alembic_version"}
    database.close()
    return found


def test_migrations_build_what_the_tables_say(db):
    with db.engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), Table.metadata)

    assert differences == []


def test_every_migration_can_be_undone_and_repeated(url):
    migrate(url)
    whole = tables(url)
    assert {"projects", "images", "embeddings", "annotations"} <= whole

    migrate(url, "-1")
    migrate(url, "head")
    migrate(url, "head")
    assert tables(url) == whole

    migrate(url, "base")
    assert tables(url) == set()


def test_a_schema_of_another_version_is_refused(url):
    migrate(url)
    migrate(url, "base")
    database = Database(url)

    with pytest.raises(SchemaOutOfDate, match=r"at revision none .* run `handful migrate`"):
        database.check_schema()
    database.close()


def test_a_writing_session_that_fails_leaves_nothing(db):
    def fail() -> None:
        with db.writing() as session:
            session.execute(sa.text("CREATE TABLE leftover (id INTEGER)"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert "leftover" not in sa.inspect(db.engine).get_table_names()


def test_writers_wait_for_each_other_and_readers_do_not(db, make_version):
    version = make_version(db)
    with db.writing() as session:
        session.add(Project(name="p", head={}, encoder_id=version))
    failures = []

    def count_up() -> None:
        try:
            for _ in range(20):
                with db.writing() as session:
                    row = session.scalars(sa.select(Project).with_for_update()).one()
                    row.revision += 1
        except Exception as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=count_up) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        with db.reading() as session:
            assert session.scalar(sa.select(Project.revision)) <= 160
    for thread in threads:
        thread.join()

    assert failures == []
    with db.reading() as session:
        assert session.scalar(sa.select(Project.revision)) == 160


def test_who_waits_too_long_for_a_lock_is_told_so(url, monkeypatch, make_version):
    monkeypatch.setattr(module, "BUSY_TIMEOUT_S", 1)
    migrate(url)
    database = Database(url)
    version = make_version(database)
    with database.writing() as session:
        session.add(Project(name="p", head={}, encoder_id=version))
    lock = sa.select(Project).with_for_update()

    with database.writing() as holder:
        holder.execute(lock)
        with pytest.raises(OperationalError) as caught, database.writing() as session:
            session.execute(lock)

    assert isinstance(from_database(caught.value), DatabaseUnavailable)
    database.close()


def test_a_transaction_whose_process_stopped_gives_its_locks_back(
    postgresql, monkeypatch, make_version
):
    monkeypatch.setattr(module, "IDLE_TIMEOUT_S", 1)
    database = Database(postgresql())
    version = make_version(database)
    with database.writing() as session:
        session.add(Project(name="p", head={}, encoder_id=version))
    lock = sa.select(Project).with_for_update()

    stopped = database.writing()
    stopped.__enter__().execute(lock)  # and then nothing
    with database.writing() as session:
        assert session.scalars(lock).one().name == "p"

    with pytest.raises(DBAPIError) as caught:
        stopped.__exit__(None, None, None)
    assert isinstance(from_database(caught.value), DatabaseUnavailable)
    database.close()


def test_sqlite_survives_power_loss(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'test.sqlite'}")
    with database.engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    database.close()

    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


@pytest.mark.parametrize("version", [(3, 51, 3), (3, 60, 0), (3, 50, 7), (3, 44, 9)])
def test_a_sqlite_without_the_bug_is_used(version):
    module._refuse_unsafe(version)


@pytest.mark.parametrize("version", [(3, 51, 2), (3, 50, 6), (3, 40, 1), (3, 44, 5), (3, 45, 9)])
def test_a_sqlite_that_can_corrupt_the_database_is_refused(version):
    with pytest.raises(UnsafeSQLite, match="install the package pysqlite3, or use PostgreSQL"):
        module._refuse_unsafe(version)


def test_without_the_wheel_the_sqlite_of_python_is_taken(monkeypatch):
    monkeypatch.setitem(sys.modules, "pysqlite3.dbapi2", None)

    assert module._driver() is sqlite3


def test_who_waits_to_write_does_not_ask_sqlite_again_and_again(tmp_path):
    # It looks for its lock in growing intervals, and lets go first who happens to look.
    url = f"sqlite:///{tmp_path / 'test.sqlite'}"
    migrate(url)
    db = Database(url)
    sent = []

    def write() -> None:
        with db.writing(wait_s=0.01) as session:
            session.execute(sa.text("DELETE FROM projects"))

    with db.writing() as session, ThreadPoolExecutor(1) as threads:
        session.execute(sa.text("SELECT 1"))
        sa.event.listen(db.engine, "before_cursor_execute", lambda *args: sent.append(args[2]))
        with pytest.raises(OperationalError, match="locked") as refusal:
            threads.submit(write).result()
        assert isinstance(from_database(refusal.value), DatabaseUnavailable)
    assert not sent

    write()
    assert "DELETE FROM projects" in sent
    db.close()
