"""Who guesses at the key waits longer each time, and nobody else does."""

import pytest

from app.access import wrong_keys
from app.access.wrong_keys import ADDRESSES, FREE, MOST_S, WrongKeys


@pytest.fixture
def guesses():
    return WrongKeys()


def test_a_guesser_waits_longer_each_time_up_to_a_limit(guesses):
    delays = [guesses.delay_s("192.0.2.1", 0.0) for _ in range(FREE + 100)]

    assert delays[:FREE] == [0.0] * FREE
    assert delays[FREE : FREE + 4] == [0.25, 0.5, 1.0, 2.0]
    assert delays[-1] == MOST_S


def test_who_waits_is_forgiven_step_by_step(guesses):
    for _ in range(FREE + 3):
        guesses.delay_s("192.0.2.1", 0.0)

    assert guesses.delay_s("192.0.2.1", 2 * wrong_keys.FORGET_S) == 0.5
    assert guesses.delay_s("192.0.2.1", 100 * wrong_keys.FORGET_S) == 0.0


def test_another_address_is_not_slowed_but_one_of_the_same_network_is(guesses):
    for n in range(FREE):
        guesses.delay_s("192.0.2.1", 0.0)
        guesses.delay_s(f"2001:db8::{n}", 0.0)

    assert guesses.delay_s("192.0.2.2", 0.0) == 0.0
    assert guesses.delay_s("2001:db8:0:1::1", 0.0) == 0.0
    assert guesses.delay_s("2001:db8::ffff", 0.0) > 0.0
    assert guesses.delay_s("192.0.2.1", 0.0) > 0.0


def test_no_more_addresses_are_remembered_than_so_many(guesses):
    for n in range(ADDRESSES + 10):
        guesses.delay_s(f"address {n}", 0.0)

    assert len(guesses._guesses) == ADDRESSES
