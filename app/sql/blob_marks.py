"""Which files rows refer to, and which are marked to be removed.

A row that refers to a file is written in a transaction that takes the file's mark away. Who has
condemned a file looks at its mark again, under its lock, before the file is removed. So whoever
comes second sees the other: the file is left, or the writer stores it again.
"""

from collections.abc import Callable, Iterable

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.sql.conflicts import retry_conflicts
from app.sql.database import Database
from app.sql.lookups import portions
from app.sql.tables import DoomedBlob, EncoderVersion, Image, Job, LearnedHead

REFERENCES = (
    Image.sha256,
    EncoderVersion.weights,
    EncoderVersion.learner,
    LearnedHead.weights,
    Job.checkpoint,
    Job.predictions,
)


class BlobSwept(RuntimeError):
    """A sweep may have removed a file before the row that refers to it was written."""


def in_use(session: Session, digests: Iterable[str]) -> set[str]:
    """Which files hold an image, what a version learned, or checkpoint or predictions of a job."""
    used: set[str] = set()
    for portion in portions(list(digests)):
        for column in REFERENCES:
            used.update(filter(None, session.scalars(select(column).where(column.in_(portion)))))
    return used


def unmark(session: Session, digests: Iterable[str]) -> bool:
    """Take the marks of files away that rows of this transaction refer to.

    Returns:
        Whether all of the files are still there. If not, write no rows, let the transaction commit,
        and store the files again.
    """
    present = True
    for portion in portions(sorted(digests)):  # in order: two that wait for each other never end
        query = select(DoomedBlob).where(DoomedBlob.sha256.in_(portion)).order_by(DoomedBlob.sha256)
        marks = list(session.scalars(query.with_for_update()))
        if marks:
            present &= all(mark.state == "marked" for mark in marks)
            names = [mark.sha256 for mark in marks]
            session.execute(delete(DoomedBlob).where(DoomedBlob.sha256.in_(names)))
    return present


@retry_conflicts
def remove_unused(db: Database, digest: str, take: Callable[[str], None]) -> bool:
    """Remove a file at once if nothing refers to it any more; whether it went.

    Args:
        take: removes the file.
    """
    with db.writing() as session:
        if in_use(session, [digest]):
            return False
        session.merge(DoomedBlob(sha256=digest, state="condemned", since=db.clock(session)))
    return remove_condemned(db, digest, take)


@retry_conflicts
def remove_condemned(db: Database, digest: str, take: Callable[[str], None]) -> bool:
    """Remove a file unless somebody has taken its mark away; who wants to, waits for us."""
    with db.writing() as session:
        query = select(DoomedBlob).where(
            DoomedBlob.sha256 == digest, DoomedBlob.state == "condemned"
        )
        mark = session.scalar(query.with_for_update())
        if mark is None:
            return False
        if in_use(session, [digest]):
            session.delete(mark)
            return False
        take(digest)
        mark.state, mark.since = "gone", db.clock(session)
    return True
