"""Who may come in: the API key, a session, or only this machine."""

import base64
import binascii
import re
import time
from urllib.parse import urlsplit

from anyio import sleep
from prometheus_client import CollectorRegistry, Counter
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access.api_key import ApiKey
from app.access.sessions import COOKIE, from_cookies, is_valid
from app.access.wrong_keys import WrongKeys
from app.http.content_policy import DOCS_ASSETS, WEB
from app.http.errors import respond
from app.problems import ForeignOrigin, MalformedRequest, Problem, Unauthorized
from app.settings import Settings

LABEL_STUDIO = "/label-studio/"  # which sends the key as a password
SESSION = "/v1/session"
OPEN_PATHS = {"/", "/livez", "/readyz", "/docs", "/openapi.json", "/favicon.ico", SESSION}
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
HOST = re.compile(r"[A-Za-z0-9._~%:\[\]-]*")


class Authentication:
    """Lets in who has the key; without one, only this machine and no other web site."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: CollectorRegistry) -> None:
        self.app = app
        self._wrong_keys = WrongKeys()
        self._counter = Counter(
            "handful_wrong_keys",
            "Requests with a wrong API key, by where it was shown: header or session",
            ["where"],
            registry=metrics,
        )
        self._key = ApiKey.of(settings)
        self._hosts = {host.lower() for host in settings.allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        problem = self.refusal(scope)
        if problem is None:
            _drop_cookies(scope)
            opens = scope["path"] == SESSION and scope["method"] == "POST"
            await self.app(scope, receive, self._slowed(scope, send) if opens else send)
            return
        if isinstance(problem, Unauthorized) and "authorization" in Headers(scope=scope):
            await self._slow_down(scope, "header")
        await respond(problem, close=has_body(Headers(scope=scope)))(scope, receive, send)

    def _slowed(self, scope: Scope, send: Send) -> Send:
        """Keep back the answer to a wrong key."""

        async def send_slowly(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 401:
                await self._slow_down(scope, "session")
            await send(message)

        return send_slowly

    async def _slow_down(self, scope: Scope, where: str) -> None:
        """Count a wrong key, and wait for as long as its address has to."""
        self._counter.labels(where).inc()
        address, _ = scope.get("client") or ("", 0)
        await sleep(self._wrong_keys.delay_s(address, time.monotonic()))

    def refusal(self, scope: Scope) -> Problem | None:
        """Why a request is not let in; None where it is."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        host = hosts[0] if hosts else ""
        if len(hosts) > 1 or (not hosts and scope["http_version"] != "1.0"):
            return MalformedRequest(f"the request has {len(hosts)} Host headers: send one")
        if not _is_host(host):
            return MalformedRequest(f"the Host header {host[:80]!r} is no name with a port")
        origin = headers.get("origin")
        foreign = origin is not None and _host_of(origin) != host.lower()
        if foreign and scope["method"] not in SAFE_METHODS:
            return ForeignOrigin(
                f"a page of {(origin or '')[:200]!r} may not change what is kept here"
            )
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
        scheme, _, credential = headers.get("authorization", "").partition(" ")
        scheme, credential, accepted = scheme.lower(), credential.strip(), "bearer"
        if scope["path"].startswith(LABEL_STUDIO) and scheme == "basic":
            credential, accepted = _password(credential), "basic"
        return self._key.matches(credential.encode("latin-1", "replace")) and scheme == accepted

    def _has_session(self, scope: Scope, headers: Headers) -> bool:
        """Whether a browser shows its cookie; to change anything, also that our page asks."""
        if scope["method"] not in SAFE_METHODS and "origin" not in headers:
            return False
        cookie = from_cookies(headers.get("cookie", ""))
        return is_valid(self._key.secret, cookie, time.time())


def _drop_cookies(scope: Scope) -> None:
    """Leave of all cookies ours alone.

    FastAPI parses them for every route, which for a long one of backslashes takes seconds, and
    other services of the same host send theirs here too.
    """
    headers = scope["headers"]
    if any(name == b"cookie" for name, _ in headers):
        cookie = f"{COOKIE}={from_cookies(Headers(scope=scope).get('cookie', ''))}"
        others = [(name, value) for name, value in headers if name != b"cookie"]
        scope["headers"] = [*others, (b"cookie", cookie.encode())]


def has_body(headers: Headers) -> bool:
    """Whether a request says that a body follows."""
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _is_host(text: str) -> bool:
    """Whether that is a name or an address, and perhaps a port."""
    try:
        return bool(HOST.fullmatch(text)) and (urlsplit(f"//{text}").port or 0) >= 0
    except ValueError:
        return False


def _host_of(origin: str) -> str:
    """The host and port of an `Origin`; of one that is malformed, none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _password(credential: str) -> str:
    """That of basic authentication."""
    try:
        return base64.b64decode(credential, validate=True).decode("latin-1").partition(":")[2]
    except (ValueError, binascii.Error):
        return ""


def _without_port(host: str) -> str:
    host = host.lower()
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host
