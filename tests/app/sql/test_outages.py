"""Errors of a database that may pass are told apart from ours."""

import sqlite3

import pytest
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, TimeoutError

from app.problems import DatabaseUnavailable, StorageFull
from app.sql.outages import LOCK_NOT_AVAILABLE, from_database, is_outage


def operational(text, *, invalidated=False):
    return OperationalError(
        "SELECT 1", {}, sqlite3.OperationalError(text), connection_invalidated=invalidated
    )


@pytest.mark.parametrize("text", ["database or disk is full", "disk I/O error"])
def test_a_full_disk_is_no_outage_but_a_problem(text):
    assert isinstance(from_database(operational(text)), StorageFull)
    assert not is_outage(operational(text))


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("QueuePool limit"),
        operational("database is locked"),
        operational("could not connect to server"),
        operational("terminating", invalidated=True),
    ],
)
def test_a_database_that_does_not_answer_may_be_back(error):
    assert isinstance(from_database(error), DatabaseUnavailable)
    assert is_outage(error)


def test_a_lock_that_postgresql_did_not_get_may_be_had_later():
    class LockNotAvailable(Exception):
        sqlstate = LOCK_NOT_AVAILABLE

    assert is_outage(OperationalError("SELECT 1", {}, LockNotAvailable("canceling statement")))


@pytest.mark.parametrize(
    "error",
    [
        ArgumentError("a mistake"),
        IntegrityError("INSERT", {}, sqlite3.IntegrityError("UNIQUE constraint failed")),
        operational("no such table"),
    ],
)
def test_mistakes_of_ours_stay_what_they_are(error):
    assert from_database(error) is None
    assert not is_outage(error)
