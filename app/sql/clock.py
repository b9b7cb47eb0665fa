"""The time by which leases, due times and ages are kept: one for all processes of a database.

On PostgreSQL it is the server's. On SQLite, whose processes share a machine, it is when the machine
was started, as the first process wrote it down, and the time since, which nobody can set. So a
wall clock that jumps gives no job away and no key free, and holds nothing up.
"""

import time
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

from sqlalchemy import delete, func, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import Session

from app.sql.tables import Boot, now

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # another one after each start
_began_at: dict[str, datetime] = {}  # by the file of a database


def clock(session: Session) -> datetime:
    """The time of the database, which all processes share."""
    if session.get_bind().dialect.name != "sqlite":
        moment: datetime = session.scalars(select(func.clock_timestamp())).one()
        return moment
    boot = _boot()
    return now() if boot is None else _start(session, boot) + _uptime()


def _start(session: Session, boot: str) -> datetime:
    """When the machine was started, as the first process said that asked."""
    file = session.get_bind().engine.url.database or ""
    if file in _began_at:
        return _began_at[file]
    began_at = session.scalar(select(Boot.began_at).where(Boot.id == boot))
    if began_at is not None:
        _began_at[file] = began_at
        return began_at
    began_at = now() - _uptime()
    if session.get_bind().get_execution_options().get("handful_writes"):
        # Remembered here when it is read: this transaction may yet be rolled back.
        session.execute(delete(Boot).where(Boot.id != boot))
        row = sqlite.insert(Boot).values(id=boot, began_at=began_at)
        session.execute(row.on_conflict_do_nothing())
    return began_at


def _uptime() -> timedelta:
    return timedelta(seconds=time.clock_gettime(time.CLOCK_BOOTTIME))


@cache
def _boot() -> str | None:
    """The present run of the machine; None where the system does not tell."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return None
