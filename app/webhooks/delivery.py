"""The threads that tell webhooks what happened.

Signed as https://www.standardwebhooks.com has it. A message may come twice, under the same id, and
later ones may come before it; the answer is awaited for seconds and its body is not read.
"""

import base64
import hashlib
import hmac
import random
import threading
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from app.logs import logger
from app.problems import Problem
from app.sql.database import Database
from app.sql.tables import Delivery, Webhook, now
from app.storage import remote

log = logger("handful.webhooks")
PREFIX = "whsec_"  # of secrets
THREADS = 2
POLL_S = 1.0  # between two looks for what is due
LEASE_S = 60.0  # after which a delivery whose process ended is taken up again
# Seconds between one attempt and the next, up to a tenth more by chance.
RETRIES_S = (5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
_generator = random.Random()


class _Message(NamedTuple):
    """What is to be sent where."""

    delivery_id: UUID
    url: str
    secret: str
    body: str


class Deliverer:
    """Threads that send what is due, in this process."""

    def __init__(self, db: Database, *, private: bool = False) -> None:
        self._db = db
        self._private = private
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"webhooks-{n}", daemon=True)
            for n in range(THREADS)
        ]

    def __enter__(self) -> "Deliverer":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; what is on its way is awaited for some seconds, and is sent again if that fails."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=POLL_S + 5)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                due = self._claim()
                if due is None:
                    self._stopping.wait(POLL_S)
                else:
                    self._send(due)
            except (SQLAlchemyError, Problem) as error:  # the database is away for a moment
                log.warning("webhooks wait", error=str(error))
                self._stopping.wait(10 * POLL_S)
            except Exception as error:
                log.exception("a delivery failed", exc_info=error)
                self._stopping.wait(10 * POLL_S)

    def _claim(self) -> _Message | None:
        """What has been due for longest; none else takes it for a while."""
        with self._db.reading() as session:
            clock = self._db.clock(session)
            due = select(Delivery.id).where(Delivery.due_at <= clock).limit(1)
            if session.scalar(due) is None:
                return None  # without a lock on the database
        query = (
            select(Delivery)
            .where(Delivery.due_at <= clock)
            .order_by(Delivery.due_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        with self._db.writing() as session:
            delivery = session.scalar(query)
            if delivery is None:
                return None
            webhook = session.get_one(Webhook, delivery.webhook_id)
            if webhook.gone:
                delivery.due_at, delivery.error = None, "it said that it wants no more"
                return None
            delivery.due_at = self._db.clock(session) + timedelta(seconds=LEASE_S)
            return _Message(delivery.id, webhook.url, webhook.secret, delivery.body)

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
            delivery = session.get(Delivery, due.delivery_id)
            if delivery is None:
                return  # deleted meanwhile
            delivery.status, delivery.error = status, error
            delivery.attempts += 1
            if error is None:
                delivery.due_at, delivery.delivered_at = None, now()
            elif status == HTTPStatus.GONE:
                delivery.due_at = None
                session.get_one(Webhook, delivery.webhook_id).gone = True
            else:
                delivery.due_at = _next_attempt(delivery.attempts, self._db.clock(session))
        log.info("webhook", delivery=str(due.delivery_id), status=status, error=error)


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
