"""What two transactions do to each other, and trying one of them again."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm.exc import StaleDataError

# Of PostgreSQL: a foreign key of what was just deleted, no serial order, a deadlock.
CONFLICTS = {"23503", "40001", "40P01"}
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def is_conflict(error: SQLAlchemyError) -> bool:
    """Whether another transaction came between; nothing was written, and the next try may work."""
    if isinstance(error, StaleDataError):  # a row that was read is gone
        return True
    if not isinstance(error, DBAPIError):
        return False
    of_sqlite = "FOREIGN KEY constraint failed" in str(error.orig)
    return of_sqlite or getattr(error.orig, "sqlstate", None) in CONFLICTS


def retry_conflicts(use: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Call a function of one transaction again, once, when another one came between.

    It looks everything up anew, so that what was deleted meanwhile is not found.
    """

    @functools.wraps(use)
    def call(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        try:
            return use(*arguments, **options)
        except SQLAlchemyError as error:
            if not is_conflict(error):
                raise
        return use(*arguments, **options)

    return call
