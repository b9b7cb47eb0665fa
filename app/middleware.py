"""What happens to every request before its route: log, guard, limits, idempotency.

Plain ASGI, so that a client that hangs up is seen and bodies stream.
"""

import base64
import binascii
import hashlib
import hmac
import time
from urllib.parse import urlsplit

import anyio.to_thread
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars
from uuid_utils.compat import uuid7

from app.idempotency import Answers, Remembered, check_fingerprint
from app.inference import Embedder, GivenUp
from app.logs import logger
from app.problems import (
    BodyTooLarge,
    ForeignOrigin,
    InvalidRequest,
    Problem,
    Unauthorized,
    as_problem,
    respond,
)
from app.sessions import COOKIE, is_valid
from app.settings import Settings

log = logger("handful.http")

DOCS_ASSETS = "/docs/assets"
WEB = "/web/"
LABEL_STUDIO = "/label-studio/"  # which sends the key as a password
OPEN_PATHS = {"/", "/livez", "/readyz", "/docs", "/openapi.json", "/favicon.ico", "/v1/session"}
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
JSON_BODY_BYTES = 16 << 20  # JSON is parsed in memory
REMEMBERED_BYTES = 8 << 20  # larger answers are not kept for an Idempotency-Key
API_CSP = "default-src 'none'; frame-ancestors 'none'; sandbox"
# The documentation page loads its scripts and styles from this server alone.
DOCS_CSP = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
)

# The labeling page holds no script or style of its own, and loads none from elsewhere.
NO_STYLE = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"  # an empty element, for plotly
WEB_CSP = (
    f"default-src 'none'; script-src 'self'; style-src 'self' {NO_STYLE}; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class HttpMetrics:
    """What `/metrics` tells about requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "handful_http_requests",
            "Requests by route and status",
            ["method", "route", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "handful_http_seconds",
            "Time to answer, by route",
            ["method", "route"],
            buckets=(0.005, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
            registry=registry,
        )


class RequestLog:
    """Gives a request an id, logs it, counts it, and answers for errors nobody caught."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = str(uuid7())
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers.setdefault("Content-Security-Policy", _content_policy(scope["path"]))
            await send(message)

        with bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            except (ClientDisconnect, GivenUp):
                status = status or 499  # nobody is left to answer
            except Exception as error:
                problem = as_problem(error)
                if problem.status >= 500:
                    log.exception("failed", exc_info=error)
                if not status:
                    problem.members.setdefault("request_id", request_id)
                    await respond(problem)(scope, receive, send_with_id)
            finally:
                self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        method = scope["method"] if scope["method"].isalpha() else "unknown"
        self.metrics.requests.labels(method, route, str(status)).inc()
        self.metrics.seconds.labels(method, route).observe(seconds)
        log.info(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=int(status),
            ms=round(seconds * 1000, 1),
        )


class Guard:
    """Lets in who has the key; without one, only this machine and no other web site."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        key = settings.api_key.get_secret_value()
        self._key = key
        self._digest = hashlib.sha256(key.encode()).digest()
        self._hosts = {host.lower() for host in settings.allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self._objection(scope) if scope["type"] == "http" else None
        if problem is not None:
            await respond(problem)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _objection(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        origin = headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        if foreign and scope["method"] not in SAFE_METHODS:
            return ForeignOrigin(f"a page of {origin!r} may not change what is kept here")
        if scope["path"] in OPEN_PATHS or scope["path"].startswith((f"{DOCS_ASSETS}/", WEB)):
            return None
        if self._key:
            if self._has_key(scope, headers) or self._has_session(scope, headers):
                return None
            return Unauthorized("send the API key as 'Authorization: Bearer KEY'")
        if _without_port(host) not in self._hosts:
            # A page whose name was pointed at this machine could read everything otherwise.
            return ForeignOrigin(
                f"host {host!r} is not served without an API key: use 127.0.0.1 or localhost, "
                "or name it in HANDFUL_ALLOWED_HOSTS"
            )
        return None

    def _has_key(self, scope: Scope, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        given, wanted = given.strip(), "bearer"
        if scope["path"].startswith(LABEL_STUDIO) and scheme.lower() == "basic":
            given, wanted = _password(given), "basic"
        digest = hashlib.sha256(given.encode("latin-1", "replace")).digest()
        return hmac.compare_digest(digest, self._digest) and scheme.lower() == wanted

    def _has_session(self, scope: Scope, headers: Headers) -> bool:
        """Whether a browser shows its cookie; to change anything, also that our page asks."""
        if scope["method"] not in SAFE_METHODS and "origin" not in headers:
            return False
        cookies = cookie_parser(headers.get("cookie", ""))
        return is_valid(self._key, cookies.get(COOKIE, ""), time.time())


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
        seen = 0

        async def receive_limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _body_too_large(limit)
            return message

        if declared.isdigit() and int(declared) > limit:
            await respond(_body_too_large(limit))(scope, receive, send)
            return
        await self.app(scope, receive_limited, send)


class Idempotency:
    """Answers a POST that carries a known `Idempotency-Key` as the first time."""

    def __init__(self, app: ASGIApp, answers: Answers) -> None:
        self.app = app
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = (
            Headers(scope=scope).get("idempotency-key")
            if scope["type"] == "http" and scope["method"] == "POST"
            else None
        )
        if key is None:
            await self.app(scope, receive, send)
            return
        if not 1 <= len(key) <= 255:
            raise InvalidRequest("an Idempotency-Key has 1 to 255 characters")
        query = scope.get("query_string", b"").decode("latin-1")
        address = f"{scope['path']}?{query}"
        found = await anyio.to_thread.run_sync(self._answers.claim, key, address)
        if isinstance(found, Remembered):
            await self._repeat(found, scope, receive, send)
        else:
            await self._first(found, scope, receive, send)

    async def _repeat(self, answer: Remembered, scope: Scope, receive: Receive, send: Send) -> None:
        body = _Hashed(receive, scope)
        await body.drain()
        check_fingerprint(answer.fingerprint, body.fingerprint)
        headers = [(k.encode(), v.encode()) for k, v in answer.headers.items()]
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [*headers, (b"idempotent-replayed", b"true")],
            }
        )
        await send({"type": "http.response.body", "body": answer.body})

    async def _first(self, claim: str, scope: Scope, receive: Receive, send: Send) -> None:
        request, answer = _Hashed(receive, scope), _Kept(send)
        finished = False
        try:
            await self.app(scope, request, answer)
            # What failed on our side, or asks to come again, may come again.
            if answer.complete and answer.status < 500 and answer.status != 429:
                await request.drain()
                await anyio.to_thread.run_sync(
                    self._answers.remember,
                    claim,
                    request.fingerprint,
                    answer.status,
                    answer.headers,
                    bytes(answer.body),
                )
                finished = True
        finally:
            if not finished:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._answers.release, claim)


class _Hashed:
    """A request body that is hashed as it is read."""

    def __init__(self, receive: Receive, scope: Scope) -> None:
        self._receive = receive
        # Two multipart bodies of the same files differ in their boundary, unless we skip it.
        boundary = Headers(scope=scope).get("content-type", "").partition("boundary=")[2]
        self._boundary = boundary.strip('"').encode("latin-1", "replace")
        self._hash = hashlib.sha256()
        self._tail = b""
        self.done = False

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._update(message.get("body", b""))
            self.done = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Read what is left."""
        while not self.done:
            message = await self()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect

    @property
    def fingerprint(self) -> str:
        final = self._hash.copy()
        final.update(self._tail)
        return final.hexdigest()

    def _update(self, chunk: bytes) -> None:
        if not self._boundary:
            self._hash.update(chunk)
            return
        text = (self._tail + chunk).replace(self._boundary, b"")
        keep = len(self._boundary)  # a boundary may go on in the next chunk
        self._hash.update(text[:-keep])
        self._tail = text[-keep:]


class _Kept:
    """An answer that is passed on and kept, unless it is large."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = dict(Headers(raw=message["headers"]).items())
        elif len(self.body) <= REMEMBERED_BYTES:
            self.body += message.get("body", b"")
            done = not message.get("more_body", False)
            self.complete = done and len(self.body) <= REMEMBERED_BYTES
        await self._send(message)


def _is_json(headers: Headers) -> bool:
    return headers.get("content-type", "").startswith("application/json")


def _body_too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit} bytes; send it in parts")


def _content_policy(path: str) -> str:
    if path == "/" or path.startswith(WEB):
        return WEB_CSP
    return DOCS_CSP if path == "/docs" else API_CSP


def _password(given: str) -> str:
    """That of basic authentication."""
    try:
        return base64.b64decode(given, validate=True).decode("latin-1").partition(":")[2]
    except (ValueError, binascii.Error):
        return ""


def _without_port(host: str) -> str:
    host = host.lower()
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host
