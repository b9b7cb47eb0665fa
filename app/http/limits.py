"""Limits: uploads that would wait too long are turned away, and bodies that are too large."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.errors import respond
from app.inference.embedder import Embedder
from app.problems import BodyTooLarge

JSON_BODY_BYTES = 16 << 20  # JSON is parsed in memory


class Admission:
    """Turns uploads away before their bodies are read, when they would wait too long for a thread.

    Args:
        embedder: knows how long images take.
        threads: requests that are worked on at the same time; so many are always let in.
    """

    def __init__(self, app: ASGIApp, embedder: Embedder, threads: int) -> None:
        self.app = app
        self._embedder = embedder
        self._threads = threads
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or _is_json(Headers(scope=scope)):
            await self.app(scope, receive, send)
            return
        ahead = self._inside + 1  # images, at least
        if ahead > self._threads and self._embedder.is_too_late(ahead):
            await respond(self._embedder.overloaded(ahead))(scope, receive, send)
            return
        self._inside += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._inside -= 1


class BodyLimit:
    """Stops reading a body that is larger than allowed."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = min(self._max_bytes, JSON_BODY_BYTES) if _is_json(headers) else self._max_bytes
        declared = headers.get("content-length", "")
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _body_too_large(limit)
            return message

        if declared.isdigit() and int(declared) > limit:
            await respond(_body_too_large(limit))(scope, receive, send)
            return
        await self.app(scope, receive_limited, send)


def _is_json(headers: Headers) -> bool:
    """Whether a body is JSON, by its type."""
    return headers.get("content-type", "").startswith("application/json")


def _body_too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit} bytes; send it in parts")
