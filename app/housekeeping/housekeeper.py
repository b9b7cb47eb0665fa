"""The thread that keeps house: what must be done now and then, beside all requests.

Of several servers on one database one does what is for all of them: who writes down first that it
begins.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple, Self

from prometheus_client import CollectorRegistry, Counter, Gauge
from sqlalchemy.exc import IntegrityError

from app.sql.conflicts import retry_conflicts
from app.sql.database import Database
from app.sql.tables import ChoreRun

FIRST_S = 60.0  # after the start, which has enough to do
LOOK_S = 300.0  # between two looks for what is due
STOP_S = 10.0  # that a chore is waited for when the service stops
HOUR_S = 3600.0
log = logging.getLogger("handful.housekeeping")


class Chore(NamedTuple):
    """Something to be done now and then."""

    name: str
    do: Callable[[], int | None]  # how many rows or files went
    every_s: float = HOUR_S
    shared: bool = True  # whether one server does it for all


class HousekeepingMetrics:
    """What was done in the house, for `/metrics`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.removed = Counter(
            "handful_housekeeping_removed", "Rows and files that went", ["chore"], registry=registry
        )
        self.failed = Counter(
            "handful_housekeeping_failures", "Chores that failed", ["chore"], registry=registry
        )
        self.finished = Gauge(
            "handful_housekeeping_finished_timestamp_seconds",
            "When this server did a chore last",
            ["chore"],
            registry=registry,
        )
        self.rows = Gauge(
            "handful_rows", "Rows of tables that only housekeeping shortens", ["table"],
            registry=registry,
        )  # fmt: skip


@dataclass
class Housekeeper:
    """A thread that does chores when they are due."""

    db: Database
    chores: Sequence[Chore]
    metrics: HousekeepingMetrics
    _done: dict[str, float] = field(default_factory=dict)  # when; those of this server alone
    _stopping: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(STOP_S)

    def look(self) -> None:
        """Do what is due; what fails is tried again at the next look."""
        for chore in self.chores:
            if self._stopping.is_set():
                return
            try:
                if chore.every_s > 0 and self._begin(chore):
                    self._do(chore)
            except Exception:
                log.warning("housekeeping waits: %s", chore.name, exc_info=True)

    def _run(self) -> None:
        pause_s = FIRST_S
        while not self._stopping.wait(pause_s):
            self.look()
            pause_s = LOOK_S

    def _do(self, chore: Chore) -> None:
        try:
            count = chore.do() or 0
        except Exception:
            self.metrics.failed.labels(chore.name).inc()
            self._give_back(chore)
            raise
        self.metrics.removed.labels(chore.name).inc(count)
        self.metrics.finished.labels(chore.name).set_to_current_time()
        if count:
            log.info("housekeeping: %s, %d gone", chore.name, count)

    @retry_conflicts
    def _begin(self, chore: Chore) -> bool:
        """Whether a chore is due, and ours from now on."""
        if not chore.shared:
            last = self._done.get(chore.name)
            if last is not None and time.monotonic() - last < chore.every_s:
                return False
            self._done[chore.name] = time.monotonic()
            return True
        with self.db.reading() as session:
            run = session.get(ChoreRun, chore.name)
            if run is not None and not _is_due(run, chore, self.db.clock(session)):
                return False
        try:
            with self.db.writing() as session:
                run = session.get(ChoreRun, chore.name, with_for_update=True)
                clock = self.db.clock(session)
                if run is None:
                    session.add(_new_run(chore, clock))
                elif _is_due(run, chore, clock):
                    run.begun_at = clock
                else:
                    return False
        except IntegrityError:
            return False  # another server has begun it at the same moment
        return True

    @retry_conflicts
    def _give_back(self, chore: Chore) -> None:
        self._done.pop(chore.name, None)
        if chore.shared:
            with self.db.writing() as session:
                run = session.get(ChoreRun, chore.name)
                if run is not None:
                    session.delete(run)


def _new_run(chore: Chore, clock: datetime) -> ChoreRun:
    return ChoreRun(name=chore.name, begun_at=clock)


def _is_due(run: ChoreRun, chore: Chore, clock: datetime) -> bool:
    """Also when it was begun in what is the future now: the clock was set back."""
    return not timedelta(0) <= clock - run.begun_at < timedelta(seconds=chore.every_s)
