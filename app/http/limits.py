"""Limits: uploads that would wait too long are turned away, and bodies that are too large."""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.to_thread
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.errors import respond
from app.http.guard import OPEN_PATHS, has_body
from app.inference.admission import AdmissionControl, RecentSpeed
from app.problems import (
    BodyTooLarge,
    LengthRequired,
    Overloaded,
    RequestTooSlow,
    UnsupportedMediaType,
)

JSON_BODY_BYTES = 16 << 20  # JSON is parsed in memory
JSON_VALUES = 1_000_000  # each takes a hundred bytes, however few it has in the body
LOOP_BYTES = 1 << 20  # a larger body is parsed in a thread
OPEN_BODY_BYTES = 4096  # of a request that needs no key
OPEN_BODY_S = 10.0  # in which that comes
LOOK_S = 0.05  # between two looks how late the event loop is


class Door:
    """Counts the uploads inside, and knows whether one more would wait too long.

    Images wait for the network; requests, for the event loop and for a thread. Where the network is
    fast, what bounds a service is the latter, which only who counts whole requests can see.

    Args:
        admission: knows how long images take.
        threads: requests that are worked on at the same time; so many are always let in.
    """

    def __init__(self, admission: AdmissionControl, threads: int) -> None:
        self._admission = admission
        self._threads = threads
        self._inside = 0
        self._loop = LoopDelay()
        self._speed = RecentSpeed()  # of whole requests
        self._since = 0.0  # time.monotonic() of the last answer, or of the first request since

    def refusal(self) -> Overloaded | None:
        """Why an upload that comes now is turned away; None: it is let in."""
        ahead = self._inside + 1  # images, at least
        delay_s = self._loop.seconds() + ahead * self._speed.seconds_each
        if ahead > self._threads and self._admission.is_too_late(ahead, delay_s):
            return self._admission.overloaded(ahead, delay_s=delay_s)
        return None

    @contextmanager
    def passed(self) -> Iterator[None]:
        """An upload is inside, and its answer tells how fast they go."""
        if not self._inside:
            self._since = time.monotonic()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            now = time.monotonic()
            self._speed.learn(1, now - self._since)
            self._since = now


class Admission:
    """Turns uploads away before their bodies are read, when they would wait too long.

    `BoundedProtocol` has turned most of them away already, which costs less.
    """

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or is_json(Headers(scope=scope)):
            await self.app(scope, receive, send)
        elif problem := self._door.refusal():
            await respond(problem)(scope, receive, send)
        else:
            with self._door.passed():
                await self.app(scope, receive, send)


class LoopDelay:
    """How long what arrives waits until the event loop comes to it: a timer's lateness.

    Connections that were not accepted, and requests that were not read, can be counted by nobody.
    """

    def __init__(self) -> None:
        self._due: float | None = None  # time.monotonic() at which the timer should ring next
        self._late_s = 0.0  # by which it rang last

    def seconds(self) -> float:
        """Of what arrives now; the first call starts the timer."""
        if self._due is None:
            self._ring()
            return 0.0
        return max(self._late_s, time.monotonic() - self._due)

    def _ring(self) -> None:
        now = time.monotonic()
        self._late_s = 0.0 if self._due is None else max(0.0, now - self._due)
        self._due = now + LOOK_S
        asyncio.get_running_loop().call_later(LOOK_S, self._ring)


class BodyLimit:
    """Stops reading a body that is larger than allowed; where no key is needed that is little."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_open = scope["path"] in OPEN_PATHS
        limit = min(self._max_bytes, OPEN_BODY_BYTES) if is_open else self._max_bytes
        declared = headers.get("content-length", "")
        deadline = anyio.current_time() + OPEN_BODY_S
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _body_too_large(limit)
            return message

        async def receive_in_time() -> Message:
            with anyio.move_on_after(deadline - anyio.current_time()):
                return await receive_limited()
            raise RequestTooSlow(f"the body did not come within {OPEN_BODY_S:g} seconds")

        if declared.isdigit() and int(declared) > limit:
            await respond(_body_too_large(limit))(scope, receive, send)
        elif is_open and "transfer-encoding" in headers:
            # What a route does not read would be read to its end.
            problem = LengthRequired("send a Content-Length with the body")
            await respond(problem, close=True)(scope, receive, send)
        else:
            body = receive_in_time if is_open and has_body(headers) else receive_limited
            await self.app(scope, body, send)


class JsonRoute(APIRoute):
    """A route whose body, if it has one, is JSON, and bounded whatever its type claims."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handle_json(request: Request) -> Response:
            json_request = _JsonRequest(request.scope, request.receive)
            await json_request.read()
            return await handle(json_request)

        return handle_json


class _JsonRequest(Request):
    """A request whose body is JSON."""

    async def read(self) -> None:
        """Read the body.

        Raises:
            BodyTooLarge: it has too many bytes, or values.
            UnsupportedMediaType: it is something else; none of it was read.
        """
        if not has_body(self.headers):
            return
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not (kind.startswith("application/") and kind[12:].rpartition("+")[2] == "json"):
            came = f"as {kind[:80]!r}" if kind else "without a Content-Type"
            raise UnsupportedMediaType(f"the body came {came}: send application/json")
        body = bytearray()
        async for chunk in self.stream():
            body += chunk
            if len(body) > JSON_BODY_BYTES:
                raise _body_too_large(JSON_BODY_BYTES)
        # Each value but the first of a list or object has a comma before it.
        if sum(map(body.count, (b",", b"[", b"{"))) > JSON_VALUES:
            raise BodyTooLarge(f"the body has more than {JSON_VALUES} values; send it in parts")
        self._body = bytes(body)

    async def json(self) -> Any:
        body = await self.body()
        if len(body) <= LOOP_BYTES:
            return json.loads(body)
        return await anyio.to_thread.run_sync(json.loads, body)


def is_json(headers: Headers) -> bool:
    """Whether a body is JSON, by its type."""
    return headers.get("content-type", "").startswith("application/json")


def _body_too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit} bytes; send it in parts")
