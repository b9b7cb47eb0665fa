"""Answers remembered by `Idempotency-Key`, so that a repeated POST does its work once.

draft-ietf-httpapi-idempotency-key-header: https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
"""

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import delete, update
from sqlalchemy.exc import IntegrityError

from app.db import Database
from app.problems import KeyInUse, KeyReused
from app.tables import Answer, now

CLAIM_S = 300  # a request that runs longer, or whose server died, can be repeated by another


class Remembered(NamedTuple):
    """The first answer to a key."""

    status: int
    headers: dict[str, str]
    body: bytes
    fingerprint: str


@dataclass(frozen=True)
class Answers:
    """The table of answers. A key belongs to one method and address."""

    db: Database
    keep_hours: float

    def claim(self, key: str, address: str) -> Remembered | str:
        """The remembered answer, or else the claim that lets us make it.

        Raises:
            KeyInUse: another request with the key is running.
        """
        claim = hashlib.sha256(f"{address}\n{key}".encode()).hexdigest()
        try:
            with self.db.writing() as session:
                known = session.get(Answer, claim)
                stale = now() - timedelta(seconds=CLAIM_S)
                if known is not None and known.status is None and known.created_at < stale:
                    session.delete(known)
                    session.flush()
                    known = None
                if known is None:
                    session.add(Answer(key=claim))
                    return claim
                if known.status is None or known.fingerprint is None:
                    raise KeyInUse(
                        "the first request with this Idempotency-Key is still running; "
                        "repeat it in a moment",
                        retry_after=1,
                    )
                return Remembered(known.status, known.headers, known.body, known.fingerprint)
        except IntegrityError as error:
            raise KeyInUse(
                "another request with this Idempotency-Key came at the same moment; repeat it",
                retry_after=1,
            ) from error

    def remember(
        self, claim: str, fingerprint: str, status: int, headers: dict[str, str], body: bytes
    ) -> None:
        """Keep the answer that was just given, and forget those that are old."""
        with self.db.writing() as session:
            session.execute(
                update(Answer)
                .where(Answer.key == claim)
                .values(fingerprint=fingerprint, status=status, headers=headers, body=body)
            )
            old = now() - timedelta(hours=self.keep_hours)
            session.execute(delete(Answer).where(Answer.created_at < old))

    def release(self, claim: str) -> None:
        """Give up a claim: the request failed on our side and may be repeated."""
        with self.db.writing() as session:
            session.execute(delete(Answer).where(Answer.key == claim))

    def release_all(self) -> None:
        """Give up what a server that died had claimed; only when no other server runs."""
        with self.db.writing() as session:
            session.execute(delete(Answer).where(Answer.status.is_(None)))


def check_fingerprint(first: str, second: str) -> None:
    """Raise when a key comes again with another body.

    Raises:
        KeyReused: it does.
    """
    if first != second:
        raise KeyReused(
            "this Idempotency-Key was used with another body; use a new key for a new request"
        )
