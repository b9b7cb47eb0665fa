"""Cookies of browsers that have shown the key."""

import pytest

from app.access.sessions import LIFETIME_S, is_valid, issue

NOW = 1_800_000_000.0


def test_a_cookie_holds_until_its_time_is_over():
    value = issue("key", NOW)

    assert is_valid("key", value, NOW)
    assert is_valid("key", value, NOW + LIFETIME_S - 1)
    assert not is_valid("key", value, NOW + LIFETIME_S)


def test_a_new_key_ends_it():
    assert not is_valid("other", issue("key", NOW), NOW)


@pytest.mark.parametrize("value", ["", ".", "9999999999", "9999999999.", "x.y", "9999999999.é"])
def test_what_was_not_issued_here_does_not_hold(value):
    assert not is_valid("key", value, NOW)


def test_it_cannot_be_prolonged():
    until, _, signature = issue("key", NOW).partition(".")

    assert not is_valid("key", f"{int(until) + 1}.{signature}", NOW)
