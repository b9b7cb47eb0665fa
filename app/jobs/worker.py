"""The worker: claims jobs and runs each in a process of its own, with low priority.

The process dies with its worker, whatever kills that. A process that stands still loses its job.
The worker itself loads nothing that computes. Where a system forks safely, the first job starts a
process that does, and every job is a fork of that one: it begins at once.
"""

import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from app.inference.process import die_with_parent
from app.jobs.job_queue import Claim, JobQueue, LeaseLost
from app.logs import configure, logger
from app.settings import Settings
from app.sql.database import Database
from app.sql.outages import is_outage
from handful.contract.jobs import JobState

POLL_S = 0.5  # between two looks for a job that waits
LOOK_S = 0.25  # between two looks after a process that runs
FRESH_S = 1.0  # since the last beat of a process that does not stand still
START_S = 120.0  # for a process to begin: importing torch takes seconds, more on a busy machine
END_S = 5.0  # for a process to end by itself
RESTART_S = (1, 2, 5, 10, 30)  # before a worker that ended is started again
log = logger("handful.worker")
if sys.platform == "linux":
    _processes = multiprocessing.get_context("forkserver")
    _processes.set_forkserver_preload(["app.jobs.process", "timm", "torchvision"])
else:
    _processes = multiprocessing.get_context("spawn")


class Worker:
    """Takes one job after the other until it is told to stop."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self._settings = settings
        self._queue = JobQueue(
            db, settings.lease_seconds, settings.job_attempts, settings.job_backoff_seconds
        )
        self.stop = threading.Event()

    def run(self, *, until_idle: bool = False) -> None:
        """Work; with `until_idle`, only until no job waits."""
        while not self.stop.is_set():
            try:
                claim = self._queue.claim()
            except SQLAlchemyError as error:
                if not is_outage(error):
                    raise
                log.warning("the database is away", error=type(error).__name__)
                self.stop.wait(POLL_S)
                continue
            if claim is not None:
                self._attend(claim)
            elif until_idle and not self._queue.has_waiting():
                return
            else:
                self.stop.wait(POLL_S)

    def _attend(self, claim: Claim) -> None:
        """Run a job in a process and look after it until it ends."""
        log.info("job claimed", job=str(claim.job_id), kind=claim.kind, attempt=claim.attempt)
        beat = _processes.Value("d", 0.0, lock=False)  # 0: it has not begun
        process = _processes.Process(
            target=_run_job, args=(self._settings, claim, beat), name="handful-job"
        )
        starting = threading.Thread(target=process.start, name="start")
        starting.start()
        renewed = started = time.monotonic()
        lease_s = self._settings.lease_seconds
        try:
            while starting.is_alive():  # what jobs are forked from may have to load before
                starting.join(LOOK_S)
                renewed = self._keep(None, claim, renewed, alive=True)
            while process.is_alive():
                process.join(LOOK_S)
                last = beat.value
                silent = time.monotonic() - (last or started)
                if self.stop.is_set():
                    self._give_back(process, claim, "its worker was stopped", counts=False)
                    return
                if silent > (lease_s if last else max(lease_s, START_S)):
                    reason = f"its process stood still for {silent:.0f} s"
                    self._give_back(process, claim, reason)
                    return
                if 0 < self._settings.job_max_seconds < time.monotonic() - started:
                    self._end_late(process, claim)
                    return
                alive = not last or silent < FRESH_S
                renewed = self._keep(process, claim, renewed, alive=alive)
            if process.exitcode:
                self._give_back(process, claim, f"its process {_ended(process.exitcode)}")
        except LeaseLost:
            starting.join()
            process.join(END_S)  # most often it has just ended its job
        finally:
            starting.join()
            _kill(process)
        log.info("job ended", job=str(claim.job_id))

    def _keep(
        self, process: BaseProcess | None, claim: Claim, renewed: float, *, alive: bool
    ) -> float:
        """Renew the lease in time, and end a job that is to be cancelled.

        Not that of a process that stands still: it may have stopped in a transaction, and we would
        wait for its lock instead of ending it. It may have stopped just now, so we wait for little.

        Raises:
            LeaseLost: the job has ended, or is no longer ours.
        """
        try:
            if process and self._queue.cancel_requested(claim):
                _kill(process)
                self._queue.finish(claim, JobState.CANCELLED)
                raise LeaseLost("cancelled")
            if alive and time.monotonic() - renewed > self._settings.lease_seconds / 3:
                self._queue.renew(claim, FRESH_S)
                return time.monotonic()
        except SQLAlchemyError as error:
            if not is_outage(error):
                raise
            log.warning("the database is away", error=type(error).__name__)
        return renewed

    def _end_late(self, process: BaseProcess, claim: Claim) -> None:
        """End a job that runs for longer than it may."""
        _kill(process)
        error = (
            f"it ran for longer than {self._settings.job_max_seconds:g} s "
            "(HANDFUL_JOB_MAX_SECONDS); a retry goes on from its last checkpoint"
        )
        log.warning("job ended", job=str(claim.job_id), error=error)
        try:
            self._queue.finish(claim, JobState.FAILED, error=error)
        except SQLAlchemyError as failure:
            log.warning("job not ended", job=str(claim.job_id), error=str(failure))

    def _give_back(
        self, process: BaseProcess, claim: Claim, reason: str, *, counts: bool = True
    ) -> None:
        _kill(process)
        log.warning("job interrupted", job=str(claim.job_id), reason=reason)
        try:
            self._queue.interrupt(claim, reason, counts=counts)
        except SQLAlchemyError as error:
            # Its lease runs out, and then it is claimed again.
            log.warning("job not given back", job=str(claim.job_id), error=str(error))


def work(settings: Settings, *, until_idle: bool = False) -> None:
    """Run a worker in this process until SIGTERM or SIGINT.

    Raises:
        SchemaOutOfDate: the database was not migrated.
    """
    configure(settings.log_level)
    db = Database(settings.database)
    try:
        db.check_schema()
        worker = Worker(settings, db)
        stop_on_signals(worker.stop)
        worker.run(until_idle=until_idle)
    finally:
        db.close()


def stop_on_signals(stop: threading.Event) -> None:
    """Set an event when SIGTERM or SIGINT comes.

    Not in the handler: it may interrupt the main thread, or another signal's handler, while that
    holds the lock of the event, and would wait for itself. A `SimpleQueue` may be interrupted.
    """
    came: SimpleQueue[int] = SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: came.put(number))

    def wait() -> None:
        came.get()
        stop.set()

    threading.Thread(target=wait, name="signals", daemon=True).start()


@contextmanager
def beside(settings: Settings) -> Iterator[None]:
    """Keep workers running beside this process, and stop them with it."""
    ending = threading.Event()
    keepers = [
        threading.Thread(target=_keep_running, args=(settings, ending), name=f"worker-{n}")
        for n in range(settings.workers)
    ]
    for keeper in keepers:
        keeper.start()
    try:
        yield
    finally:
        ending.set()
        for keeper in keepers:
            keeper.join()


def _keep_running(settings: Settings, ending: threading.Event) -> None:
    """Start a worker, and again whenever it ends."""
    starts = 0
    while not ending.is_set():
        spawning = multiprocessing.get_context("spawn")  # our threads do not survive a fork
        process = spawning.Process(target=_work_beside, args=(settings,), name="handful-worker")
        process.start()
        started = time.monotonic()
        while process.is_alive() and not ending.wait(LOOK_S):
            pass
        if ending.is_set():
            process.terminate()
            process.join(10)
            _kill(process)
            return
        starts = 0 if time.monotonic() - started > 60 else starts + 1
        pause = RESTART_S[min(starts, len(RESTART_S) - 1)]
        log.error("worker ended", code=process.exitcode, restart_in_s=pause)
        ending.wait(pause)


def _work_beside(settings: Settings) -> None:
    die_with_parent(signal.SIGTERM)
    work(settings)


def _run_job(settings: Settings, claim: Claim, beat: Any) -> None:
    from app.jobs.process import run_job

    run_job(settings, claim, beat)


def _kill(process: BaseProcess) -> None:
    if process.is_alive():
        process.kill()
    process.join()


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    name = signal.Signals(-code).name if -code in list(signal.Signals) else str(-code)
    hint = ", perhaps because memory ran out" if -code == signal.SIGKILL else ""
    return f"was ended by {name}{hint}"
