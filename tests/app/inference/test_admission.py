"""How many images may wait, and for how long."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.inference.admission import AdmissionControl, AdmissionLimits
from app.problems import Overloaded, Unavailable
from tests.app.inference.conftest import PATIENCE_S, wait_until


@pytest.fixture(autouse=True)
def clock(clock, monkeypatch):
    monkeypatch.setattr("app.inference.admission.time", clock)
    return clock


@pytest.fixture
def make(metrics):
    """Makes an admission without threads behind it, of which none is dead."""

    def make(images=100, size=1000, delay_s=10.0, has_dead_thread=lambda: False):
        limits = AdmissionLimits(images, size, delay_s)
        return AdmissionControl(limits, has_dead_thread, metrics)

    return make


def admit(admission, images=1, size=1, *, wait=False, bulk=False):
    admission.admit(images, size, wait=wait, bulk=bulk)


@pytest.mark.parametrize("limit", [{"images": 2}, {"size": 20}])
def test_a_full_queue_turns_away_with_a_time_to_come_again(make, limit):
    admission = make(**limit)
    admit(admission, 2, 20)

    with pytest.raises(Overloaded) as caught:
        admit(admission)
    admission.release(2, 20, bulk=False)
    admit(admission)

    assert (caught.value.status, caught.value.retry_after) == (429, 1)


def test_a_request_larger_than_the_queue_goes_through_alone(make):
    admission = make(images=2)

    admit(admission, 5)

    with pytest.raises(Overloaded):
        admit(admission)


def test_bulk_leaves_room_for_others(make):
    admission = make(images=8)
    admit(admission, 6, bulk=True)

    with pytest.raises(Overloaded):
        admit(admission, bulk=True)
    admit(admission, 2)

    assert admission.images == 8


def test_images_that_would_wait_too_long_are_turned_away_with_the_time_to_come_again(make, clock):
    admission = make(delay_s=1.0)
    for _ in range(3):
        admit(admission)
        clock.seconds += 0.4  # it learns that an image takes 0.4 s
        admission.learn_speed(1)
        admission.release(1, 1, bulk=False)
    assert not admission.is_too_late(1)
    assert admission.is_too_late(2)
    admit(admission)

    with pytest.raises(Overloaded) as caught:
        admit(admission, 5)
    admit(admission, 5, bulk=True)
    admission.release(1, 1, bulk=False)
    admit(admission, 5)  # while nothing waits that is not in bulk

    assert caught.value.retry_after == 2  # 6 images take 2.4 s, of 0.6 s at most


def test_it_knows_a_speed_before_the_first_answer(make):
    admission = make(delay_s=1.0)
    assert not admission.is_too_late(1000)

    admission.expect_speed(0.1)  # twice of that, with caution

    assert not admission.is_too_late(2)
    assert admission.is_too_late(4)


def test_the_time_of_a_trial_is_not_that_of_the_images_that_waited_for_it(make, clock):
    admission = make(delay_s=10.0)
    admit(admission)
    clock.seconds += 50

    admission.expect_speed(0.1)
    clock.seconds += 0.1
    admission.learn_speed(1)

    assert not admission.is_too_late(25)


def test_streams_that_end_together_do_not_seem_slow(make, clock):
    admission = make()
    admit(admission)
    for _ in range(20):  # three batches of 16 at once, every second: 48 images a second
        clock.seconds += 1.0
        for _ in range(3):
            admission.learn_speed(16)

    assert not admission.is_too_late(280)  # 5.8 s
    assert admission.is_too_late(300)  # 6.3 s, of 10 at most with caution


def test_a_time_without_work_is_not_slow(make, clock):
    admission = make()
    admit(admission)
    clock.seconds += 1.0
    admission.learn_speed(10)
    admission.release(1, 1, bulk=False)
    clock.seconds += 1000.0
    admit(admission)
    clock.seconds += 1.0
    admission.learn_speed(10)

    assert not admission.is_too_late(59)
    assert admission.is_too_late(61)


def test_who_waits_for_room_gets_it(make):
    has_looked = threading.Event()

    def has_dead_thread() -> bool:
        has_looked.set()
        return False

    admission = make(images=1, has_dead_thread=has_dead_thread)
    admit(admission)
    has_looked.clear()
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(admit, admission, wait=True)
        assert has_looked.wait(PATIENCE_S)  # it did not fit
        assert (second.done(), admission.images) == (False, 1)

        admission.release(1, 1, bulk=False)
        second.result(PATIENCE_S)

    assert admission.images == 1


def test_nobody_is_admitted_while_a_thread_is_dead(make):
    admission = make(has_dead_thread=lambda: True)

    with pytest.raises(Unavailable):
        admit(admission)
    with pytest.raises(Unavailable):
        admit(admission, wait=True)


def test_draining_admits_nobody_and_waits_for_those_inside(make):
    admission = make()
    admit(admission)
    with ThreadPoolExecutor(1) as threads:
        draining = threads.submit(admission.drain, PATIENCE_S)
        wait_until(lambda: admission.is_stopping)

        with pytest.raises(Unavailable):
            admit(admission)
        assert not draining.done()
        admission.release(1, 1, bulk=False)
        draining.result(PATIENCE_S)


def test_what_waits_and_what_is_turned_away_is_counted(make, metrics):
    admission = make(images=3)
    admit(admission, 2, 70)
    with pytest.raises(Overloaded):
        admit(admission, 2, 10)

    counters = (metrics.waiting, metrics.waiting_bytes, metrics.rejected)
    assert [counter._value.get() for counter in counters] == [2, 70, 2]
    admission.release(2, 70, bulk=False)
    assert [counter._value.get() for counter in counters] == [0, 0, 2]
