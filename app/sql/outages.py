"""Which errors of a database are no fault of ours, and may pass."""

from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError, TimeoutError

from app.problems import DatabaseUnavailable, Problem, StorageFull
from app.sql.conflicts import is_conflict

LOCK_NOT_AVAILABLE = "55P03"  # of PostgreSQL


def from_database(error: SQLAlchemyError) -> Problem | None:
    """The problem behind a database error that is no fault of ours, if it is one."""
    if isinstance(error, StatementError) and isinstance(error.orig, Problem):
        return error.orig  # of a value that is not to be stored
    if isinstance(error, TimeoutError):
        return DatabaseUnavailable("every database connection is busy", retry_after=1)
    if is_conflict(error):
        return DatabaseUnavailable(
            "others changed the same at the same time; nothing was stored", retry_after=1
        )
    if not isinstance(error, DBAPIError):
        return None
    text = str(error.orig).lower()
    if "disk is full" in text or "no space left" in text or "disk i/o error" in text:
        return StorageFull("the database has no space left to write", retry_after=60)
    waited = "locked" in text or getattr(error.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE
    if error.connection_invalidated or waited or "connect" in text:
        return DatabaseUnavailable("the database did not answer in time", retry_after=1)
    return None


def is_outage(error: SQLAlchemyError) -> bool:
    """Whether the database may be back later."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(from_database(error), DatabaseUnavailable)
