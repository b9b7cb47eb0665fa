"""What takes several requests, driven by hand."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest

from handful import steps
from handful.contract.common import Page
from handful.contract.jobs import EventRead, EventsRead, JobRead, JobState
from handful.contract.pool import PoolAdded
from handful.retries import Attempts, RequestRefused
from handful.steps import FILES_PER_REQUEST, POLL_S, Attempt, JobUnsuccessful

JOB = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def drive(procedure, outcomes):
    """The steps that were taken, and what they came to."""
    taken, outcome = [], None
    while True:
        try:
            taken.append(procedure.send(outcome))
        except StopIteration as end:
            return taken, end.value
        outcome = None if isinstance(taken[-1], float) else outcomes.pop(0)


def events(state, *numbers):
    items = [
        {"number": n, "kind": "message", "data": {"text": "x"}, "created_at": MOMENT}
        for n in numbers
    ]
    return EventsRead.model_validate({"items": items, "state": state})


def job(state, error=None):
    fields: dict[str, Any] = dict.fromkeys(JobRead.model_fields)
    return JobRead.model_construct(**fields | {"id": JOB, "state": state, "error": error})


def test_a_request_is_repeated_under_the_same_key_after_a_pause():
    busy = httpx.Response(503, headers={"Retry-After": "2"})
    attempts = Attempts("http://x", "POST", 60)
    procedure = steps.request(attempts, "/v1", {"json": {}, "headers": {"a": "b"}})

    taken, answer = drive(procedure, [busy, httpx.ReadError("cut"), httpx.Response(201)])

    first, pause, second, other_pause, third = taken
    assert (pause, other_pause) == (2, 1)
    assert first == second == third
    assert first[:2] == ("POST", "/v1")
    assert first.arguments["headers"].keys() == {"Idempotency-Key", "a"}
    assert answer.status_code == 201


def test_a_request_that_is_refused_is_not_repeated():
    procedure = steps.request(Attempts("http://x", "GET", 60), "/v1", {})
    assert isinstance(next(procedure), Attempt)

    with pytest.raises(RequestRefused):
        procedure.send(httpx.Response(404, json={"detail": "none"}))


def test_images_are_sent_some_at_a_time():
    count = FILES_PER_REQUEST + 1
    progress: list[tuple[int, int]] = []
    problem = {"type": "x", "title": "x", "status": 422, "detail": "x"}
    failure = {"position": 0, "filename": None, "problem": problem}
    answers = [PoolAdded(images=[], failed=[failure]) for _ in range(2)]

    taken, added = drive(
        steps.add_images("birds", [b"x"] * count, progress=lambda *p: progress.append(p)), answers
    )

    assert [len(call.files) for call in taken] == [FILES_PER_REQUEST, 1]
    assert progress == [(FILES_PER_REQUEST, count), (count, count)]
    assert [failed.position for failed in added.failed] == [0, FILES_PER_REQUEST]


def test_a_job_is_asked_for_what_is_new_until_it_has_ended():
    heard: list[EventRead] = []
    outcomes = [
        events(JobState.RUNNING, 1, 2),
        events(JobState.RUNNING),
        events(JobState.SUCCEEDED, 3),
        events(JobState.SUCCEEDED),
        job(JobState.SUCCEEDED),
    ]

    taken, final = drive(steps.wait("birds", JOB, heard.append), outcomes)

    assert [event.number for event in heard] == [1, 2, 3]
    assert [step if isinstance(step, float) else step.params.get("after") for step in taken] == [
        0, 2, POLL_S, 2, 3, None,
    ]  # fmt: skip
    assert final.state == JobState.SUCCEEDED


def test_a_job_that_failed_says_why():
    outcomes = [events(JobState.FAILED), job(JobState.FAILED, "no labels")]

    with pytest.raises(JobUnsuccessful, match="failed: no labels"):
        drive(steps.wait("birds", JOB), outcomes)


def test_a_list_ends_with_the_page_that_names_no_other():
    query = {"limit": 2}

    following = steps.next_query(query, Page(items=[1, 2], next_cursor="x"))

    assert following == {"limit": 2, "cursor": "x"}
    assert steps.next_query(query, Page(items=[3], next_cursor=None)) is None
