"""Answers remembered by `Idempotency-Key`, so that a repeated POST does its work once.

draft-ietf-httpapi-idempotency-key-header: https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import NamedTuple
from uuid import UUID, uuid4

import anyio.to_thread
from anyio import CapacityLimiter
from sqlalchemy import ColumnElement, and_, delete, or_, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.errors import respond
from app.http.guard import OPEN_PATHS
from app.logs import logger
from app.problems import AnswerLost, InvalidRequest, KeyInUse, KeyReused, Problem
from app.sql.conflicts import retry_conflicts
from app.sql.database import Database, sealing
from app.sql.outages import is_outage
from app.sql.tables import StoredResponse

log = logger("handful.idempotency")
REMEMBERED_BYTES = 8 << 20  # larger answers are not kept for an Idempotency-Key
CLAIM_S = 300  # a request whose server was silent for longer can be repeated by another
RETRY_S = 1.0  # between tries to write to a database that is away
BEAT_S = 30.0  # between two signs of life of a request that runs
UNKNOWN = ""  # fingerprint of a body that nobody read to its end
RUNNING = StoredResponse.status.is_(None)
SEALED = and_(StoredResponse.status.is_not(None), StoredResponse.fingerprint.is_(None))


class FirstResponse(NamedTuple):
    """The first answer to a key."""

    status: int
    headers: dict[str, str]
    body: bytes
    fingerprint: str


class KeyClaim(NamedTuple):
    """The right to make the first answer to a key, until another takes it over."""

    key: str  # hash of key and address
    token: UUID


@dataclass(frozen=True)
class StoredResponses:
    """The table of answers. A key belongs to one method and address.

    A row has no status while its request runs. In the transaction of work that is done once it gets
    the answer that it is done (`seal`): that stands if the server dies before it can tell more.
    What is there has a fingerprint, as soon as it is sure to stay.
    """

    db: Database
    keep_hours: float

    @retry_conflicts
    def claim(self, key: str, address: str) -> FirstResponse | KeyClaim:
        """The remembered answer, or else the claim that lets us make it.

        Raises:
            KeyInUse: another request with the key is running.
        """
        claim = KeyClaim(hashlib.sha256(f"{address}\n{key}".encode()).hexdigest(), uuid4())
        try:
            with self.db.writing() as session:
                moment = self.db.clock(session)
                row = session.get(StoredResponse, claim.key, with_for_update=True)
                if (
                    row is not None
                    and row.status is not None
                    and row.created_at < moment - timedelta(hours=self.keep_hours)
                ):
                    session.delete(row)
                    session.flush()
                    row = None
                if row is None:
                    session.add(StoredResponse(key=claim.key, token=claim.token, created_at=moment))
                    return claim
                silent = row.created_at < moment - timedelta(seconds=CLAIM_S)
                if row.status is not None and (row.fingerprint is not None or silent):
                    return FirstResponse(
                        row.status, row.headers, row.body, row.fingerprint or UNKNOWN
                    )
                if not silent:
                    raise KeyInUse(
                        "the first request with this Idempotency-Key is still running; "
                        "repeat it in a moment",
                        retry_after=1,
                    )
                row.token, row.created_at = claim.token, moment
                return claim
        except IntegrityError as error:
            raise KeyInUse(
                "another request with this Idempotency-Key came at the same moment; repeat it",
                retry_after=1,
            ) from error

    def seal(self, claim: KeyClaim, session: Session) -> None:
        """Say in the transaction of the work that it is done, in case nobody can say more.

        Raises:
            KeyInUse: another request has taken the claim over; the work is for it to do.
        """
        problem = AnswerLost(
            "what this Idempotency-Key asked for was done, and the server ended before it could "
            "keep its answer: look at what is there, and use a new key for a new request"
        )
        lost = respond(problem)
        sealed = session.execute(
            update(StoredResponse)
            .where(*_unsettled(claim))
            .values(status=lost.status_code, headers=dict(lost.headers), body=bytes(lost.body))
            .returning(StoredResponse.key)
        ).all()
        if not sealed:
            raise KeyInUse(
                "another request with this Idempotency-Key goes on with its work", retry_after=1
            )

    @retry_conflicts
    def renew(self, claim: KeyClaim) -> None:
        """Say that a request still runs, so that no other takes its claim over."""
        with self.db.writing() as session:
            moment = self.db.clock(session)
            session.execute(
                update(StoredResponse).where(*_unsettled(claim)).values(created_at=moment)
            )

    @retry_conflicts
    def remember(
        self,
        claim: KeyClaim,
        fingerprint: str,
        status: int,
        headers: dict[str, str],
        body: bytes,
    ) -> None:
        """Keep the answer that is about to be given."""
        with self.db.writing() as session:
            session.execute(
                update(StoredResponse)
                .where(*_unsettled(claim))
                .values(fingerprint=fingerprint, status=status, headers=headers, body=body)
            )

    @retry_conflicts
    def release(self, claim: KeyClaim) -> None:
        """Give up a claim: the request failed on our side and may be repeated, unless sealed."""
        with self.db.writing() as session:
            unsettled = _unsettled(claim)
            session.execute(delete(StoredResponse).where(*unsettled, RUNNING))
            session.execute(update(StoredResponse).where(*unsettled).values(fingerprint=UNKNOWN))

    @retry_conflicts
    def release_all(self) -> None:
        """Give up what a server that died had claimed; only when no other server runs."""
        with self.db.writing() as session:
            session.execute(delete(StoredResponse).where(RUNNING))
            session.execute(update(StoredResponse).where(SEALED).values(fingerprint=UNKNOWN))


def _unsettled(claim: KeyClaim) -> tuple[ColumnElement[bool], ...]:
    """The row of a claim, while its answer may change and nobody else has taken it over."""
    return (
        StoredResponse.key == claim.key,
        StoredResponse.token == claim.token,
        or_(RUNNING, SEALED),
    )


class Idempotency:
    """Answers a POST that carries a known `Idempotency-Key` as the first time.

    Paths that are open to everybody are left out: nothing is changed there that could be changed
    twice, and who has no key shall not have anything kept.
    """

    def __init__(self, app: ASGIApp, answers: StoredResponses) -> None:
        self.app = app
        self._answers = answers
        self._beats = CapacityLimiter(1)  # a thread that requests do not use up
        self._unwritten: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = (
            Headers(scope=scope).get("idempotency-key")
            if scope["type"] == "http" and scope["method"] == "POST"
            else None
        )
        if key is None or scope["path"] in OPEN_PATHS:
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

    async def _first(self, claim: KeyClaim, scope: Scope, receive: Receive, send: Send) -> None:
        request = _HashedBody(receive, scope)
        settled = False

        async def settle(answer: "_Recorder") -> None:
            nonlocal settled
            settled = True
            await self._settle(claim, request, answer)

        beating = asyncio.create_task(self._beat(claim))
        noted = sealing.set(partial(self._answers.seal, claim))
        try:
            await self.app(scope, request, _Recorder(send, settle))
        finally:
            sealing.reset(noted)
            beating.cancel()
            if not settled:
                await self._write(partial(self._answers.release, claim))

    async def _settle(self, claim: KeyClaim, request: "_HashedBody", answer: "_Recorder") -> None:
        """Remember an answer whose last byte was not sent yet, or let the request come again."""
        # What failed on our side, or asks to come again, may come again.
        final = answer.status < 500 and answer.status != 429
        fingerprint = UNKNOWN
        if final and answer.is_kept:
            try:
                await request.drain()
                fingerprint = request.fingerprint
            except (ClientDisconnect, Problem):  # what was done is done, whoever still listens
                pass
        change = partial(self._answers.release, claim)
        if final and answer.is_kept:
            change = partial(
                self._answers.remember,
                claim,
                fingerprint,
                answer.status,
                answer.headers,
                bytes(answer.body),
            )
        await self._write(change)

    async def _write(self, change: Callable[[], None]) -> None:
        """Write what became of a claim; when the database is away, as soon as it is back."""
        with anyio.CancelScope(shield=True):
            try:
                await anyio.to_thread.run_sync(change)
            except SQLAlchemyError as error:  # what was done is done, and the answer is true
                log.warning("a claim is not settled yet", error=str(error))
                writing = asyncio.create_task(self._write_later(change))
                self._unwritten.add(writing)
                writing.add_done_callback(self._unwritten.discard)

    async def _write_later(self, change: Callable[[], None]) -> None:
        while True:
            await anyio.sleep(RETRY_S)
            try:
                await anyio.to_thread.run_sync(change, limiter=self._beats)
            except SQLAlchemyError as error:
                if is_outage(error):
                    continue
                log.warning("a claim is not settled", error=str(error))
            return

    async def _beat(self, claim: KeyClaim) -> None:
        """Renew a claim until the request has ended."""
        while True:
            await anyio.sleep(BEAT_S)
            try:
                await anyio.to_thread.run_sync(self._answers.renew, claim, limiter=self._beats)
            except SQLAlchemyError as error:
                log.warning("a claim is not renewed", error=str(error))


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
    """An answer that is passed on and kept, unless it is large.

    Args:
        settle: awaited when the answer is whole, before its last byte is passed on: who has that
            may repeat the request at once. Nothing is passed on before the first byte is there.
    """

    def __init__(self, send: Send, settle: "Callable[[_Recorder], Awaitable[None]]") -> None:
        self._send = send
        self._settle = settle
        self._start: Message | None = None
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()

    @property
    def is_kept(self) -> bool:
        """Whether all of the body is here."""
        return len(self.body) <= REMEMBERED_BYTES

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = dict(Headers(raw=message["headers"]).items())
            self._start = message
            return
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        if self.is_kept:
            self.body += message.get("body", b"")
        if not message.get("more_body", False):
            await self._settle(self)
        if self._start is not None:
            await self._send(self._start)
            self._start = None
        await self._send(message)


def _check_fingerprint(first: str, second: str) -> None:
    """Raise when a key comes again with another body.

    Raises:
        KeyReused: it does.
    """
    if first not in (UNKNOWN, second):
        raise KeyReused(
            "this Idempotency-Key was used with another body; use a new key for a new request"
        )
