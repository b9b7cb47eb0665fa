"""Chores are done when they are due, by one server of all."""

import threading
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import select

from app.housekeeping import housekeeper as module
from app.housekeeping.housekeeper import Chore, Housekeeper, HousekeepingMetrics
from app.sql.tables import ChoreRun
from tests import databases
from tests.server_process import PATIENCE_S

database_url = databases.each


class Server:
    """A housekeeper, and what it did."""

    def __init__(self, db, *, every_s: float = 3600.0, shared: bool = True) -> None:
        self.done = 0
        self.fails = False
        self.registry = CollectorRegistry()
        chore = Chore("dishes", self._do, every_s, shared)
        self.housekeeper = Housekeeper(db, [chore], HousekeepingMetrics(self.registry))

    def _do(self) -> int:
        if self.fails:
            raise RuntimeError("no water")
        self.done += 1
        return 7


def move_clock(db, hours: float) -> None:
    """Let the database's clock go on, or back."""
    with db.writing() as session:
        for run in session.scalars(select(ChoreRun)):
            run.begun_at -= timedelta(hours=hours)


def test_one_server_of_all_does_what_is_due(db):
    servers = [Server(db), Server(db)]

    for _ in range(2):
        for server in servers:
            server.housekeeper.look()
    assert [server.done for server in servers] == [1, 0]

    move_clock(db, 2)
    for server in reversed(servers):
        server.housekeeper.look()
    assert [server.done for server in servers] == [1, 1]


def test_two_that_begin_at_the_same_moment_do_it_once(db, monkeypatch):
    servers, looked = [Server(db), Server(db)], threading.Barrier(2)
    new_run = module._new_run

    def wait_once(*arguments, **options):
        looked.wait(PATIENCE_S)  # both have seen that nobody has begun it
        return new_run(*arguments, **options)

    if not db.is_sqlite:  # where the second cannot begin to write before the first has
        monkeypatch.setattr(module, "_new_run", wait_once)
    threads = [threading.Thread(target=server.housekeeper.look) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(server.done for server in servers) == 1


def test_what_each_server_does_for_itself_is_due_by_its_own_clock(db):
    servers = [Server(db, shared=False), Server(db, shared=False)]

    for _ in range(2):
        for server in servers:
            server.housekeeper.look()

    assert [server.done for server in servers] == [1, 1]


def test_a_clock_that_was_set_back_stops_no_chore(db):
    server = Server(db)
    server.housekeeper.look()
    move_clock(db, -1000)

    server.housekeeper.look()

    assert server.done == 2


@pytest.mark.parametrize("shared", [True, False])
def test_what_failed_is_tried_again_and_stops_no_other(db, shared):
    server = Server(db, shared=shared)
    other = Chore("laundry", lambda: 1, 3600.0)
    server.housekeeper.chores = [*server.housekeeper.chores, other]
    server.fails = True
    server.housekeeper.look()
    server.fails = False

    server.housekeeper.look()

    assert server.done == 1
    value = server.registry.get_sample_value
    assert value("handful_housekeeping_failures_total", {"chore": "dishes"}) == 1
    assert value("handful_housekeeping_removed_total", {"chore": "dishes"}) == 7
    assert value("handful_housekeeping_removed_total", {"chore": "laundry"}) == 1
    assert value("handful_housekeeping_finished_timestamp_seconds", {"chore": "dishes"})


def test_what_is_never_due_is_never_done(db):
    server = Server(db, every_s=0)

    server.housekeeper.look()

    assert server.done == 0


def test_the_thread_looks_by_itself_and_ends(db, monkeypatch):
    monkeypatch.setattr(module, "FIRST_S", 0.0)
    server, done = Server(db), threading.Event()
    look = server.housekeeper.look

    def look_and_tell():
        look()
        done.set()

    monkeypatch.setattr(server.housekeeper, "look", look_and_tell)

    with server.housekeeper:
        assert done.wait(PATIENCE_S)

    assert server.done == 1
    assert not server.housekeeper._thread.is_alive()
