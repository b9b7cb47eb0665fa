"""Threads that are watched, and garbage collection."""

import gc
import threading

import pytest

from app.inference.process import WatchedThread, look_past_what_stays
from tests.app.inference.conftest import PATIENCE_S


def test_a_thread_that_waits_is_well():
    gate = threading.Event()

    def run(_: WatchedThread) -> None:
        gate.wait(PATIENCE_S)

    thread = WatchedThread("model", run)
    thread.start()

    assert thread.ailment(stall_s=0.0) is None
    gate.set()
    thread.join()


def test_a_thread_that_stands_still_is_an_ailment(clock, monkeypatch):
    monkeypatch.setattr("app.inference.process.time", clock)
    busy, gate = threading.Event(), threading.Event()

    def work(thread: WatchedThread) -> None:
        thread.busy_since = clock.monotonic()
        busy.set()
        gate.wait(PATIENCE_S)

    thread = WatchedThread("model", work)
    thread.start()
    assert busy.wait(PATIENCE_S)

    clock.seconds += 9
    assert thread.ailment(stall_s=10.0) is None
    clock.seconds += 3
    assert thread.ailment(stall_s=10.0) == "thread model has been busy for 12 s"
    thread.busy_since = None
    assert thread.ailment(stall_s=10.0) is None
    gate.set()
    thread.join()


@pytest.mark.parametrize("error", [RuntimeError("out of luck"), SystemExit("out of luck")])
def test_a_thread_that_died_is_an_ailment_with_its_cause(error):
    def work(_: WatchedThread) -> None:
        raise error

    thread = WatchedThread("decode-0", work)
    thread.start()
    thread.join()

    assert thread.ailment(stall_s=10.0) == f"thread decode-0 has ended: {error!r}"


def test_what_stays_is_left_out_of_garbage_collection():
    try:
        look_past_what_stays()
        assert gc.get_freeze_count() > 1000
    finally:
        gc.unfreeze()
