"""Answers remembered by `Idempotency-Key`, so that a repeated POST does its work once.

draft-ietf-httpapi-idempotency-key-header: https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
"""

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

import anyio.to_thread
from sqlalchemy import delete, update
from sqlalchemy.exc import IntegrityError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.problems import InvalidRequest, KeyInUse, KeyReused
from app.sql.database import Database
from app.sql.tables import StoredResponse

REMEMBERED_BYTES = 8 << 20  # larger answers are not kept for an Idempotency-Key
CLAIM_S = 300  # a request that runs longer, or whose server died, can be repeated by another


class FirstResponse(NamedTuple):
    """The first answer to a key."""

    status: int
    headers: dict[str, str]
    body: bytes
    fingerprint: str


@dataclass(frozen=True)
class StoredResponses:
    """The table of answers. A key belongs to one method and address."""

    db: Database
    keep_hours: float

    def claim(self, key: str, address: str) -> FirstResponse | str:
        """The remembered answer, or else the claim that lets us make it.

        Raises:
            KeyInUse: another request with the key is running.
        """
        claim = hashlib.sha256(f"{address}\n{key}".encode()).hexdigest()
        try:
            with self.db.writing() as session:
                row = session.get(StoredResponse, claim)
                clock = self.db.clock(session)
                if row is not None and row.created_at < clock - self._lifetime(row):
                    session.delete(row)
                    session.flush()
                    row = None
                if row is None:
                    session.add(StoredResponse(key=claim, created_at=clock))
                    return claim
                if row.status is None or row.fingerprint is None:
                    raise KeyInUse(
                        "the first request with this Idempotency-Key is still running; "
                        "repeat it in a moment",
                        retry_after=1,
                    )
                return FirstResponse(row.status, row.headers, row.body, row.fingerprint)
        except IntegrityError as error:
            raise KeyInUse(
                "another request with this Idempotency-Key came at the same moment; repeat it",
                retry_after=1,
            ) from error

    def _lifetime(self, row: StoredResponse) -> timedelta:
        if row.status is None:
            return timedelta(seconds=CLAIM_S)
        return timedelta(hours=self.keep_hours)

    def remember(
        self, claim: str, fingerprint: str, status: int, headers: dict[str, str], body: bytes
    ) -> None:
        """Keep the answer that was just given."""
        with self.db.writing() as session:
            session.execute(
                update(StoredResponse)
                .where(StoredResponse.key == claim)
                .values(fingerprint=fingerprint, status=status, headers=headers, body=body)
            )

    def release(self, claim: str) -> None:
        """Give up a claim: the request failed on our side and may be repeated."""
        with self.db.writing() as session:
            session.execute(delete(StoredResponse).where(StoredResponse.key == claim))

    def release_all(self) -> None:
        """Give up what a server that died had claimed; only when no other server runs."""
        with self.db.writing() as session:
            session.execute(delete(StoredResponse).where(StoredResponse.status.is_(None)))


class Idempotency:
    """Answers a POST that carries a known `Idempotency-Key` as the first time."""

    def __init__(self, app: ASGIApp, answers: StoredResponses) -> None:
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
        claim = await anyio.to_thread.run_sync(self._answers.claim, key, address)
        if isinstance(claim, FirstResponse):
            await self._repeat(claim, scope, receive, send)
        else:
            await self._first(claim, scope, receive, send)

    async def _repeat(
        self, answer: FirstResponse, scope: Scope, receive: Receive, send: Send
    ) -> None:
        body = _HashedBody(receive, scope)
        await body.drain()
        _check_fingerprint(answer.fingerprint, body.fingerprint)
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
        request, answer = _HashedBody(receive, scope), _Recorder(send)
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


class _HashedBody:
    """A request body that is hashed as it is read."""

    def __init__(self, receive: Receive, scope: Scope) -> None:
        self._receive = receive
        # Two multipart bodies of the same files differ in their boundary, unless we skip it.
        boundary = Headers(scope=scope).get("content-type", "").partition("boundary=")[2]
        self._boundary = boundary.strip('"').encode("latin-1", "replace")
        self._hash = hashlib.sha256()
        self._tail = b""
        self._complete = False

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._update(message.get("body", b""))
            self._complete = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Read what is left."""
        while not self._complete:
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


class _Recorder:
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
            whole = not message.get("more_body", False)
            self.complete = whole and len(self.body) <= REMEMBERED_BYTES
        await self._send(message)


def _check_fingerprint(first: str, second: str) -> None:
    """Raise when a key comes again with another body.

    Raises:
        KeyReused: it does.
    """
    if first != second:
        raise KeyReused(
            "this Idempotency-Key was used with another body; use a new key for a new request"
        )
