"""Requests are repeated while that can help, and no longer."""

import httpx
import pytest

from handful.retries import (
    Attempts,
    RequestRefused,
    ServiceUnreachable,
    connection_errors,
    refusal,
)

URL = "http://127.0.0.1:9"
REQUEST = httpx.Request("GET", URL)


def test_an_answer_ends_the_attempts():
    assert Attempts(URL, "GET", 60).pause_after(httpx.Response(200)) is None


@pytest.mark.parametrize(
    ("outcome", "pause_s"),
    [
        (httpx.Response(429, headers={"Retry-After": "3"}), 3),
        (httpx.Response(503), 1),
        (httpx.ReadTimeout("late"), 1),
    ],
)
def test_a_service_that_is_busy_is_asked_again(outcome, pause_s):
    assert Attempts(URL, "GET", 60).pause_after(outcome) == pause_s
    with pytest.raises(ServiceUnreachable):
        Attempts(URL, "GET", 0).pause_after(outcome)


def test_where_nobody_listens_nothing_is_tried_again():
    with pytest.raises(ServiceUnreachable, match="handful serve"):
        Attempts(URL, "GET", 60).pause_after(httpx.ConnectError("refused"))


def test_only_what_changes_something_has_a_key_and_each_its_own():
    keys = {Attempts(URL, "POST", 60).headers["Idempotency-Key"] for _ in range(3)}

    assert len(keys) == 3
    assert Attempts(URL, "GET", 60).headers == {}


def test_a_problem_is_raised_with_all_it_says():
    problem = {"type": "/problems/stale", "title": "Changed", "detail": "read again", "edition": 3}

    with pytest.raises(RequestRefused, match="read again") as refused:
        Attempts(URL, "GET", 60).pause_after(httpx.Response(412, json=problem))

    assert (refused.value.status, refused.value.type) == (412, "/problems/stale")
    assert refused.value.members["edition"] == 3
    assert refused.value.failed == ()


@pytest.mark.parametrize("content", [b"<html>", b"[]"])
def test_an_error_that_is_no_problem_comes_from_somebody_else(content):
    answer = httpx.Response(404, content=content, request=REQUEST)

    assert isinstance(refusal(answer), ServiceUnreachable)


@pytest.mark.parametrize(
    ("error", "says"),
    [(httpx.ConnectError("refused"), "no service answers"), (httpx.ReadError("cut"), "failed")],
)
def test_a_connection_that_fails_is_told_in_our_words(error, says):
    with pytest.raises(ServiceUnreachable, match=says), connection_errors(URL):
        raise error
