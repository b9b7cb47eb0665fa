"""The threads that tell webhooks what happened.

Signed as https://www.standardwebhooks.com has it. A message may come twice, under the same id, and
later ones may come before it; the answer is awaited for seconds and its body is not read.

A webhook has one message under way at a time, and the next is of the project that has waited for
longest: who answers slowly keeps others waiting for one exchange at most. Whose webhook fails again
and again is left alone for a while, and for good after days.
"""

import base64
import hashlib
import hmac
import random
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from http import HTTPStatus
from typing import NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import Select, bindparam, exists, func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, aliased

from app.logs import logger
from app.problems import Problem
from app.sql.database import Database
from app.sql.tables import Delivery, Webhook, now
from app.storage import remote

log = logger("handful.webhooks")
PREFIX = "whsec_"  # of secrets
THREADS = 4
POLL_S = 1.0  # between two looks for what is due
STOP_S = 6.0  # in which what is on its way may arrive when the service stops
LEASE_S = 120.0  # after which a webhook is taken up again whose process ended
# Seconds between one attempt and the next, up to a tenth more by chance.
RETRIES_S = (5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
FAILURES = 5  # one after the other, of a webhook, after which it is left alone
PAUSES_S = (60, 5 * 60, 15 * 60, 3600)  # then, and after each failure from there on
GIVE_UP = timedelta(days=4)  # of failures, after which nothing more is sent
ENDED = "nothing more is sent there: it said so, or failed for days"
Result = TypeVar("Result")
_generator = random.Random()


def _turn() -> Select[Webhook]:
    """The webhook whose turn it is: of what is due, that of the project that waits for longest.

    `moment` is now, by the database's clock.
    """
    moment, peer = bindparam("moment", type_=Delivery.due_at.type), aliased(Webhook)
    last_of_project = select(func.max(peer.tried_at)).where(peer.project_id == Webhook.project_id)
    return (
        select(Webhook)
        .where(
            exists().where(Delivery.webhook_id == Webhook.id, Delivery.due_at <= moment),
            or_(Webhook.busy_until.is_(None), Webhook.busy_until <= moment),
            or_(Webhook.paused_until.is_(None), Webhook.paused_until <= moment, Webhook.gone),
        )
        .order_by(
            last_of_project.scalar_subquery().nulls_first(),
            Webhook.tried_at.nulls_first(),
            Webhook.id,
        )
        .limit(1)
    )


TURN = _turn()  # built once: it is asked for every second
# Not FOR UPDATE, for which who tells it something would have to wait.
TURN_HELD = TURN.with_for_update(of=Webhook, key_share=True, skip_locked=True)


class _Message(NamedTuple):
    """What is to be sent where."""

    delivery_id: UUID
    webhook_id: UUID
    busy_until: datetime  # by which it is known that the webhook is still ours
    url: str
    secret: str
    body: str


class Deliverer:
    """Threads that send what is due, in this process; one of them looks out for it at a time."""

    def __init__(self, db: Database, *, private: bool = False) -> None:
        self._db = db
        self._private = private
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(n,), name=f"webhooks-{n}", daemon=True)
            for n in range(THREADS)
        ]
        self._lookout = threading.Lock()  # held by the thread that looks for what is due
        self._busy_since: dict[int, float] = {}  # number of a thread: time.monotonic()

    def __enter__(self) -> "Deliverer":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; what is on its way is awaited for some seconds, and is sent again if that fails."""
        self._stopping.set()
        deadline = time.monotonic() + STOP_S
        for thread in self._threads:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))

    def ailments(self, stall_s: float) -> list[str]:
        """What is wrong with the threads; empty when all is well.

        Args:
            stall_s: from when on a thread that is busy is taken to stand still.
        """
        ended = [f"thread {t.name} has ended" for t in self._threads if not t.is_alive()]
        busy_s = {n: time.monotonic() - since for n, since in dict(self._busy_since).items()}
        stalled = [
            f"thread {self._threads[n].name} has been busy for {seconds:.0f} s"
            for n, seconds in busy_s.items()
            if seconds > stall_s and self._threads[n].is_alive()
        ]
        return ended + stalled

    def _run(self, number: int) -> None:
        while not self._stopping.is_set():
            with self._lookout:
                due = self._await_due(number)
            if due is not None:
                self._try(number, partial(self._send, due))

    def _await_due(self, number: int) -> _Message | None:
        """What is due, once something is; None when the service stops before."""
        while not self._stopping.is_set():
            due = self._try(number, self._claim)
            if due is not None:
                return due
            self._stopping.wait(POLL_S)
        return None

    def _try(self, number: int, work: Callable[[], Result]) -> Result | None:
        """What work answers, which `ailments` watches; None, a while later, when it failed."""
        self._busy_since[number] = time.monotonic()
        try:
            return work()
        except (SQLAlchemyError, Problem) as error:  # the database is away for a moment
            log.warning("webhooks wait", error=str(error))
        except Exception as error:
            log.exception("a delivery failed", exc_info=error)
        finally:
            del self._busy_since[number]
        self._stopping.wait(10 * POLL_S)
        return None

    def _claim(self) -> _Message | None:
        """What has been due for longest at the webhook whose turn it is, which is ours then."""
        with self._db.reading() as session:
            if session.scalar(TURN, {"moment": self._db.clock(session)}) is None:
                return None  # without a lock on the database
        with self._db.writing() as session:
            moment = self._db.clock(session)
            webhook = session.scalar(TURN_HELD, {"moment": moment})
            if webhook is None:
                return None
            delivery = session.scalar(
                select(Delivery)
                .where(Delivery.webhook_id == webhook.id, Delivery.due_at <= moment)
                .order_by(Delivery.due_at, Delivery.id)
                .limit(1)
            )
            if delivery is None:
                return None
            webhook.tried_at = moment
            if webhook.gone:
                _end(session, webhook)
                return None
            webhook.busy_until = moment + timedelta(seconds=LEASE_S)
            return _Message(
                delivery.id,
                webhook.id,
                webhook.busy_until,
                webhook.url,
                webhook.secret,
                delivery.body,
            )

    def _send(self, due: _Message) -> None:
        body = due.body.encode()
        status, error = None, None
        try:
            headers = signed(due.delivery_id, due.secret, body)
            status = remote.post(due.url, body, headers, private=self._private)
            if not 200 <= status < 300:
                error = f"it answered with status {status}"
        except Problem as problem:
            error = problem.detail
        with self._db.writing() as session:
            webhook = session.get(Webhook, due.webhook_id, with_for_update={"key_share": True})
            delivery = session.get(Delivery, due.delivery_id)
            if webhook is None or delivery is None:
                return  # deleted meanwhile
            if webhook.busy_until == due.busy_until:
                webhook.busy_until = None
            delivery.status, delivery.error = status, error
            delivery.attempts += 1
            if error is None:
                delivery.due_at, delivery.delivered_at = None, now()
                resume(webhook)
            elif status == HTTPStatus.GONE:
                delivery.due_at, webhook.gone = None, True
            else:
                clock = self._db.clock(session)
                delivery.due_at = _next_attempt(delivery.attempts, clock)
                _pause(webhook, clock)
            if webhook.gone:
                _end(session, webhook)
        log.info("webhook", delivery=str(due.delivery_id), status=status, error=error)


def resume(webhook: Webhook) -> None:
    """Send what is due to a webhook at once, whatever has failed before."""
    webhook.failures, webhook.failing_since, webhook.paused_until = 0, None, None


def _pause(webhook: Webhook, moment: datetime) -> None:
    """Leave a webhook alone for a while after so many failures, and for good after days of them."""
    webhook.failures += 1
    webhook.failing_since = webhook.failing_since or moment
    if webhook.failures >= FAILURES:
        pause_s = PAUSES_S[min(webhook.failures - FAILURES, len(PAUSES_S) - 1)]
        webhook.paused_until = moment + timedelta(seconds=pause_s)
    webhook.gone = moment - webhook.failing_since > GIVE_UP


def _end(session: Session, webhook: Webhook) -> None:
    """Give up all that a webhook was not told yet."""
    waiting = update(Delivery).where(
        Delivery.webhook_id == webhook.id, Delivery.due_at.is_not(None)
    )
    session.execute(waiting.values(due_at=None, error=ENDED))


def signed(delivery_id: UUID, secret: str, body: bytes) -> dict[str, str]:
    """The headers by which a receiver knows who sent a message, and when."""
    moment = int(now().timestamp())
    key = base64.b64decode(secret.removeprefix(PREFIX))
    content = f"{delivery_id}.{moment}.".encode() + body
    signature = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return {
        "Content-Type": "application/json",
        "User-Agent": "Handful",
        "webhook-id": str(delivery_id),
        "webhook-timestamp": str(moment),
        "webhook-signature": f"v1,{signature}",
    }


def _next_attempt(attempts: int, clock: datetime) -> datetime | None:
    if attempts > len(RETRIES_S):
        return None
    return clock + timedelta(seconds=RETRIES_S[attempts - 1] * _generator.uniform(1, 1.1))
