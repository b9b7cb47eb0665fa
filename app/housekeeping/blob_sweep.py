"""Removes files that nothing refers to: marks them first, removes them later.

Nothing that an upload acknowledges is ever removed, on a disk or in a bucket, however the two meet:
see `app.sql.blob_marks`.
"""

from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite

from app.sql.blob_marks import in_use, remove_condemned
from app.sql.conflicts import retry_conflicts
from app.sql.database import Database
from app.sql.lookups import portions
from app.sql.tables import DoomedBlob
from app.storage.blobs import Blobs

GRACE_S = 3600.0  # from the mark to the removal
REMEMBERED_S = 24 * 3600.0  # that a file is gone; an upload is shorter than that
AT_ONCE = 500  # marks of one transaction


class Swept(NamedTuple):
    """What a sweep did."""

    marked: int  # files that a later sweep removes
    removed: int


def sweep(db: Database, blobs: Blobs, grace_s: float = GRACE_S) -> Swept:
    """Remove what was marked for long, and mark what nothing refers to."""
    marked = 0
    for files in blobs.files():
        for digests in portions([file.sha256 for file in files]):
            marked += _mark(db, set(digests))
    for path in blobs.unfinished():
        path.unlink(missing_ok=True)
    while _condemn(db, grace_s):
        pass
    removed = sum(remove_condemned(db, digest, blobs.remove) for digest in _condemned(db))
    _forget(db)
    return Swept(marked, removed)


@retry_conflicts
def _mark(db: Database, digests: set[str]) -> int:
    """Mark the files among these that nothing refers to; how many are new to that."""
    waiting = select(DoomedBlob.sha256).where(
        DoomedBlob.sha256.in_(digests), DoomedBlob.state != "gone"
    )
    with db.reading() as session:  # most often nothing is to be written
        unmarked = digests - in_use(session, digests)
        unmarked -= set(session.scalars(waiting)) if unmarked else set()
    if not unmarked:
        return 0
    insert = sqlite.insert if db.is_sqlite else postgresql.insert
    with db.writing() as session:
        doomed = unmarked - in_use(session, unmarked)
        since = db.clock(session)
        rows = [{"sha256": d, "state": "marked", "since": since} for d in sorted(doomed)]
        if rows:
            statement = insert(DoomedBlob).values(rows)
            session.execute(
                statement.on_conflict_do_update(
                    index_elements=["sha256"],
                    set_={"state": "marked", "since": since},
                    where=DoomedBlob.state == "gone",  # it was stored again, and left again
                )
            )
    return len(doomed)


@retry_conflicts
def _condemn(db: Database, grace_s: float) -> int:
    """Have files go that were marked for long and are of no use; how many were looked at."""
    with db.writing() as session:
        query = (
            select(DoomedBlob)
            .where(
                DoomedBlob.state == "marked",
                DoomedBlob.since <= db.clock(session) - timedelta(seconds=grace_s),
            )
            .order_by(DoomedBlob.sha256)
            .limit(AT_ONCE)
            .with_for_update()
        )
        marks = list(session.scalars(query))
        used = in_use(session, [mark.sha256 for mark in marks])
        for mark in marks:
            if mark.sha256 in used:
                session.delete(mark)
            else:
                mark.state = "condemned"
    return len(marks)


def _condemned(db: Database) -> list[str]:
    """Files that are to go now, also those that a sweep before us left."""
    with db.reading() as session:
        query = select(DoomedBlob.sha256).where(DoomedBlob.state == "condemned")
        return list(session.scalars(query))


@retry_conflicts
def _forget(db: Database) -> None:
    """Forget files that went so long ago that no upload can have seen them."""
    with db.writing() as session:
        old = db.clock(session) - timedelta(seconds=REMEMBERED_S)
        session.execute(
            delete(DoomedBlob).where(DoomedBlob.state == "gone", DoomedBlob.since < old)
        )
