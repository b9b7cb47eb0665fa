"""The worker: claims jobs and runs each in a process of its own, with low priority.

The process dies with its worker, whatever kills that. A process that stands still loses its job.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue
from typing import Any

import torch
from sqlalchemy.exc import SQLAlchemyError

from app.db import Database
from app.inference import keep_freed_memory
from app.jobs import JobFailed, Work, build, is_outage
from app.logs import configure, logger
from app.problems import Problem
from app.promotion import Promotions
from app.queue import Claim, LeaseLost, Queue
from app.settings import Settings
from app.storage import Blobs
from app.tables import JobState
from app.versions import Versions
from models.encoders import pick_device

POLL_S = 0.5  # between two looks for a job that waits
BEAT_S = 0.25  # between two looks after a job that runs
FRESH_S = 1.0  # since the last beat of a process that does not stand still
START_S = 120.0  # for a process to begin: importing torch takes seconds, more on a busy machine
END_S = 5.0  # for a process to end by itself
NICENESS = 10
RESTART_S = (1, 2, 5, 10, 30)  # before a worker that ended is started again

log = logger("handful.worker")
_processes = multiprocessing.get_context("spawn")


class Worker:
    """Takes one job after the other until it is told to stop."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self._settings = settings
        self._queue = Queue(db, settings.lease_seconds, settings.job_attempts)
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
            elif until_idle:
                return
            else:
                self.stop.wait(POLL_S)

    def _attend(self, claim: Claim) -> None:
        """Run a job in a process and look after it until it ends."""
        log.info("job claimed", job=str(claim.job_id), kind=claim.kind, attempt=claim.attempt)
        beat = _processes.Value("d", 0.0, lock=False)  # 0: it has not begun
        process = _processes.Process(
            target=run_job, args=(self._settings, claim, beat, os.getpid()), name="handful-job"
        )
        process.start()
        renewed = started = time.monotonic()
        lease_s = self._settings.lease_seconds
        try:
            while process.is_alive():
                process.join(BEAT_S)
                last = beat.value
                silent = time.monotonic() - (last or started)
                if self.stop.is_set():
                    self._give_back(process, claim, "its worker was stopped", counts=False)
                    return
                if silent > (lease_s if last else max(lease_s, START_S)):
                    reason = f"its process stood still for {silent:.0f} s"
                    self._give_back(process, claim, reason)
                    return
                alive = not last or silent < FRESH_S
                renewed = self._keep(process, claim, renewed, alive=alive)
            if process.exitcode:
                self._give_back(process, claim, f"its process {_ended(process.exitcode)}")
        except LeaseLost:
            process.join(END_S)  # most often it has just ended its job
        finally:
            _kill(process)
        log.info("job ended", job=str(claim.job_id))

    def _keep(self, process: SpawnProcess, claim: Claim, renewed: float, *, alive: bool) -> float:
        """Renew the lease in time, and end a job that is to be cancelled.

        Not that of a process that stands still: it may have stopped in a transaction, and we would
        wait for its lock instead of ending it.

        Raises:
            LeaseLost: the job has ended, or is no longer ours.
        """
        try:
            if self._queue.cancel_requested(claim):
                _kill(process)
                self._queue.finish(claim, JobState.CANCELLED)
                raise LeaseLost("cancelled")
            if alive and time.monotonic() - renewed > self._settings.lease_seconds / 3:
                self._queue.renew(claim)
                return time.monotonic()
        except SQLAlchemyError as error:
            if not is_outage(error):
                raise
            log.warning("the database is away", error=type(error).__name__)
        return renewed

    def _give_back(
        self, process: SpawnProcess, claim: Claim, reason: str, *, counts: bool = True
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
    done = threading.Event()
    keepers = [
        threading.Thread(target=_keep_running, args=(settings, done), name=f"worker-{n}")
        for n in range(settings.workers)
    ]
    for keeper in keepers:
        keeper.start()
    try:
        yield
    finally:
        done.set()
        for keeper in keepers:
            keeper.join()


def _keep_running(settings: Settings, done: threading.Event) -> None:
    """Start a worker, and again whenever it ends."""
    starts = 0
    while not done.is_set():
        process = _processes.Process(
            target=_work_beside, args=(settings, os.getpid()), name="handful-worker"
        )
        process.start()
        started = time.monotonic()
        while process.is_alive() and not done.wait(BEAT_S):
            pass
        if done.is_set():
            process.terminate()
            process.join(10)
            _kill(process)
            return
        starts = 0 if time.monotonic() - started > 60 else starts + 1
        pause = RESTART_S[min(starts, len(RESTART_S) - 1)]
        log.error("worker ended", code=process.exitcode, restart_in_s=pause)
        done.wait(pause)


def _work_beside(settings: Settings, parent: int) -> None:
    _die_with(parent, signal.SIGTERM)
    work(settings)


def run_job(settings: Settings, claim: Claim, beat: Any, parent: int) -> None:
    """Run one job in this process and write how it ended."""
    _die_with(parent, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the worker, which then ends us
    os.nice(NICENESS)
    configure(settings.log_level)
    threading.Thread(target=_beat, args=(beat,), daemon=True).start()
    device = pick_device(settings.device)
    torch.set_num_threads(settings.training_threads or max(1, (os.cpu_count() or 1) - 1))
    if device.type == "cpu":
        keep_freed_memory()
    db = Database(settings.database)
    blobs = Blobs(settings.blobs)
    queue = Queue(db, settings.lease_seconds, settings.job_attempts)
    job = Work(
        claim=claim,
        queue=queue,
        db=db,
        blobs=blobs,
        versions=Versions(db, blobs, device),
        promotions=Promotions(db, blobs, settings.max_pixels),
        max_pixels=settings.max_pixels,
        cache_bytes=settings.training_cache_bytes,
        decode_threads=settings.decode_threads,
        checkpoint_s=settings.checkpoint_seconds,
    )
    try:
        perform(job)
    except LeaseLost:
        log.warning("job no longer ours", job=str(claim.job_id))
    db.close()


def perform(job: Work) -> None:
    """Do a job, and write how it ended.

    Raises:
        LeaseLost: it is no longer ours.
    """
    claim, finish = job.claim, job.queue.finish
    try:
        result = build(claim.kind, claim.options).run(job)
    except LeaseLost:
        raise
    except (JobFailed, Problem) as error:
        reason = error.detail if isinstance(error, Problem) else str(error)
        job.patiently(lambda: finish(claim, JobState.FAILED, error=reason))
    except Exception as error:
        log.exception("job failed", job=str(claim.job_id))
        reason = f"unexpected error, see the log: {type(error).__name__}: {error}"
        job.patiently(lambda: finish(claim, JobState.FAILED, error=reason))
    else:
        job.patiently(lambda: finish(claim, JobState.SUCCEEDED, result=result))


def _beat(beat: Any) -> None:
    while True:
        beat.value = time.monotonic()
        time.sleep(BEAT_S)


def _die_with(parent: int, how: signal.Signals) -> None:
    """Have this process end as soon as its parent has ended."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, how)
    threading.Thread(target=_watch, args=(parent, how), daemon=True).start()


def _watch(parent: int, how: signal.Signals) -> None:
    """Where the kernel does not tell, and when the parent had ended before we could ask it to."""
    while os.getppid() == parent:
        time.sleep(BEAT_S)
    os.kill(os.getpid(), how)


def _kill(process: SpawnProcess) -> None:
    if process.is_alive():
        process.kill()
    process.join()


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    name = signal.Signals(-code).name if -code in list(signal.Signals) else str(-code)
    hint = ", perhaps because memory ran out" if -code == signal.SIGKILL else ""
    return f"was ended by {name}{hint}"
