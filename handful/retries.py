"""Requests that are repeated while the service is busy, and what is raised when they fail."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx

BUSY = {429, 503}


class ServiceUnreachable(RuntimeError):
    """Nobody answers at the address, or only that there is no time."""


class RequestRefused(RuntimeError):
    """The service answered with a problem (RFC 9457); the message is its detail."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail") or problem.get("title") or f"status {status}"))
        self.status = status
        self.type = str(problem.get("type", "about:blank"))
        self.title = str(problem.get("title", ""))
        self.detail = str(self)
        self.members = dict(problem)
        self.failed: Sequence[Mapping[str, Any]] = problem.get("failed", ())


class Attempts:
    """One request, which is repeated while the service is busy, restarting or out of reach."""

    def __init__(self, url: str, method: str, patience_s: float) -> None:
        self.method = method
        self._url = url
        self._deadline = time.monotonic() + patience_s
        # With it, a repetition changes nothing twice.
        self.headers = {"Idempotency-Key": str(uuid4())} if method == "POST" else {}

    def pause_after(self, outcome: httpx.Response | httpx.HTTPError) -> float | None:
        """Seconds until the next attempt; None when this is the answer.

        Raises:
            ServiceUnreachable: patience is over, or nobody listens there.
            RequestRefused: the answer is a problem.
        """
        if isinstance(outcome, httpx.ConnectError):
            raise nobody_answers(self._url) from outcome
        if isinstance(outcome, httpx.HTTPError):
            pause_s, reason = 1.0, f"the connection to {self._url} failed: {outcome!r}"
        elif outcome.status_code in BUSY:
            pause_s = float(outcome.headers.get("Retry-After", 1))
            reason = f"{self._url} is busy: {outcome.text}"
        else:
            if outcome.is_error:
                raise refusal(outcome)
            return None
        if time.monotonic() + pause_s > self._deadline:
            raise ServiceUnreachable(reason)
        return pause_s


@contextmanager
def connection_errors(url: str) -> Iterator[None]:
    """Tell what goes wrong between here and there in our own words.

    Raises:
        ServiceUnreachable: nobody listens there, or the connection broke off.
    """
    try:
        yield
    except httpx.ConnectError as error:
        raise nobody_answers(url) from error
    except httpx.HTTPError as error:
        raise ServiceUnreachable(f"the connection to {url} failed: {error!r}") from error


def nobody_answers(url: str) -> ServiceUnreachable:
    """What is raised when nobody listens at an address."""
    return ServiceUnreachable(
        f"no service answers at {url}: start one with `handful serve`, or name another with --url"
    )


def refusal(answer: httpx.Response) -> Exception:
    """The exception that an error stands for."""
    try:
        return RequestRefused(answer.status_code, answer.json())
    except (ValueError, AttributeError):
        return not_handful(answer)


def not_handful(answer: httpx.Response) -> ServiceUnreachable:
    """What is raised when something else answers."""
    return ServiceUnreachable(
        f"what answers at {answer.url.host}:{answer.url.port} does not look like Handful"
    )
