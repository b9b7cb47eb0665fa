"""A server that says that it will stop before it does, and whose connections are bounded."""

import asyncio
import json
import resource
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, ClassVar

import uvicorn
from starlette.datastructures import Headers
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.http.errors import MEDIA_TYPE, respond
from app.http.limits import is_json
from app.problems import HeadersTooLarge, MalformedRequest, Problem, RequestTooSlow

HEAD_BYTES = 1 << 16  # of the address and all headers of a request
HEADERS = 100  # of a request
HEAD_S = 10.0  # from the first byte of a request, or the connection, to the last header
ACCEPTED = 16  # connections at a turn of the event loop
DRAIN_BYTES = 1 << 16  # of a body that comes after its answer
FRAMING = 16  # bytes around each of a body, at most, that says how long its chunks are
DESCRIPTORS = 1 << 16  # more are not asked for
RESERVED = 512  # descriptors for files, the database, and what workers need


def raise_descriptors() -> int:
    """Raise the limit of open files as far as the system allows, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return DESCRIPTORS
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    with suppress(OSError, ValueError):  # a kernel may know a lower one than it tells
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def max_connections(descriptors: int) -> int:
    """How many connections there may be at once."""
    return max(descriptors - RESERVED, descriptors // 2)


class BoundedProtocol(HttpToolsProtocol):
    """HTTP where all but the body of a request is bounded, in bytes and in time.

    uvicorn's h11 bounds the bytes only, and takes a tenth of a millisecond more for each request.
    Of connections on which no request is being answered there may be half as many as of all; beyond
    that the one that waits for longest is closed, so that nobody who holds many shuts others out.

    Uploads are turned away here, before the service sees them. Of a body that comes all the same
    `DRAIN_BYTES` are thrown away, and then the connection is closed.

    Args:
        refusal: why an upload that comes now is turned away; None: it is not.
    """

    _waiting: ClassVar[dict["BoundedProtocol", None]] = {}  # the longest first
    _room = HEAD_BYTES  # for bytes of the request that are not its body
    _head_bytes = 0
    _deadline: asyncio.TimerHandle | None = None
    _refusal: Problem | None = None
    _unread = 0  # bytes of a body that came after the answer

    def __init__(
        self, *args: Any, refusal: Callable[[], Problem | None] = lambda: None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._service = self.app
        self._refusal_of_upload = refusal

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._room -= len(data)
        if self in self._waiting and self._deadline is None:
            self._set_deadline()
        super().data_received(data)
        if self._room < 0 and not self.transport.is_closing():
            self._refuse(_headers_too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._room, self._head_bytes, self._unread = HEAD_BYTES, 0, 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)  # also those that come behind a body
        self._count(name, value)

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        is_upload = self.parser.get_method() == b"POST" and not is_json(Headers(raw=self.headers))
        problem = self._refusal_of_upload() if is_upload else None
        self.app = self._service if problem is None else respond(problem)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._room += (1 + FRAMING) * len(body)
        super().on_body(body)
        if self.cycle.response_complete:
            self._unread += len(body)
            if self._unread > DRAIN_BYTES:
                self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._wait()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed, or was refused while it was parsed."""
        self._refuse(self._refusal or MalformedRequest(msg))

    def _count(self, *parts: bytes) -> None:
        self._head_bytes += sum(map(len, parts))
        if self._head_bytes > HEAD_BYTES or len(self.headers) > HEADERS:
            self._refusal = _headers_too_large()
            raise self._refusal  # which ends the parser

    def _wait(self) -> None:
        """A request may come, or not; this connection may be closed if there are too many."""
        self._waiting[self] = None
        limit = self.config.limit_concurrency
        if limit is not None and len(self._waiting) > limit // 2:
            longest = next(iter(self._waiting))
            longest._stop_waiting()
            longest.transport.close()
            # uvicorn would count it until the next turn of the loop, and take more at this one.
            longest.connections.discard(longest)

    def _stop_waiting(self) -> None:
        self._waiting.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(HEAD_S, self._on_deadline)

    def _on_deadline(self) -> None:
        what = f"the headers of the request were not complete within {HEAD_S:g} seconds"
        self._refuse(RequestTooSlow(what))

    def _refuse(self, problem: Problem) -> None:
        """Answer, unless another answer is under way, and close the connection."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = json.dumps(problem.document()).encode()
            fields: dict[str, Any] = {"content-type": MEDIA_TYPE, "content-length": len(body)}
            lines = [f"{name}: {value}\r\n" for name, value in fields.items()]
            head = STATUS_LINE[problem.status] + "".join(lines).encode()
            self.transport.write(head + b"connection: close\r\n\r\n" + body)
        self.transport.close()


def _headers_too_large() -> HeadersTooLarge:
    return HeadersTooLarge(
        f"a request may have {HEADERS} headers and {HEAD_BYTES} bytes before its body"
    )


class DrainingServer(uvicorn.Server):
    """Stops in three steps at SIGTERM.

    It is not ready any more, and still answers for some seconds, in which who distributes requests
    notices. Then it takes no new connections and finishes what it has begun. Then it ends. A second
    SIGTERM spares the seconds; SIGINT, which a person sends, always does.
    """

    def __init__(self, config: uvicorn.Config, drain_s: float) -> None:
        super().__init__(config)
        self._drain_s = drain_s
        self._since: float | None = None  # time.monotonic() of the first SIGTERM

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until it is told to stop.

        libuv takes one connection of a socket at each turn of the event loop. With one socket, and
        turns that wait for threads which compute, new connections would wait for half a minute, in
        which nobody can refuse them.
        """
        super().run([copy for listener in sockets or [] for copy in _repeated(listener)] or None)

    @property
    def draining(self) -> bool:
        """Whether it will stop soon."""
        return self._since is not None or self.should_exit

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; no more is done inside of a signal handler."""
        if sig != signal.SIGTERM:
            super().handle_exit(sig, frame)
        elif self._since is None:
            self._since = time.monotonic()
        else:
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; whether to stop now."""
        if self._since is not None and time.monotonic() - self._since >= self._drain_s:
            self.should_exit = True
        return await super().on_tick(counter)


def _repeated(listener: socket.socket) -> list[socket.socket]:
    """The same listening socket as often as connections are to be taken at a turn."""
    return [listener, *(listener.dup() for _ in range(ACCEPTED - 1))]
