"""The process of a job: runs one, with low priority, and writes how it ended."""

import gc
import os
import signal
import threading
import time
from typing import Any

import torch

from app.encoders.learned_heads import LearnedHeads
from app.encoders.promotion import Promotions
from app.encoders.versions import Versions
from app.inference.process import die_with_parent, keep_freed_memory
from app.jobs.context import JobContext, JobFailed
from app.jobs.job_queue import Claim, JobQueue, LeaseLost
from app.jobs.kinds import build, kinds
from app.logs import configure, logger
from app.problems import Problem
from app.settings import Settings
from app.sql.database import Database
from app.storage.blobs import Blobs
from handful.contract.jobs import JobState
from models.encoders import pick_device

log = logger("handful.worker")

BEAT_S = 0.25  # between two signs of life
NICENESS = 10

len(kinds)  # loads them all, once for all processes that are forked from one with this module


def run_job(settings: Settings, claim: Claim, beat: Any) -> None:
    """Run one job in this process and write how it ended."""
    die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the worker, which then ends us
    os.nice(NICENESS)
    gc.freeze()  # to look for garbage among what was loaded holds up all threads for long
    configure(settings.log_level)
    threading.Thread(target=_beat, args=(beat,), daemon=True).start()
    device = pick_device(settings.device)
    torch.set_num_threads(settings.training_threads or max(1, (os.cpu_count() or 1) - 1))
    if device.type == "cpu":
        keep_freed_memory()
    db = Database(settings.database)
    blobs = Blobs(settings.blobs)
    queue = JobQueue(
        db, settings.lease_seconds, settings.job_attempts, settings.job_backoff_seconds
    )
    context = JobContext(
        claim=claim,
        queue=queue,
        db=db,
        blobs=blobs,
        versions=Versions(db, blobs, device),
        learned_heads=LearnedHeads(db, blobs),
        promotions=Promotions(db, blobs, settings.max_pixels),
        max_pixels=settings.max_pixels,
        cache_bytes=settings.training_cache_bytes,
        decode_threads=settings.decode_threads,
        checkpoint_s=settings.checkpoint_seconds,
    )
    try:
        perform(context)
    except LeaseLost:
        log.warning("job no longer ours", job=str(claim.job_id))
    db.close()


def perform(context: JobContext) -> None:
    """Do a job, and write how it ended.

    Raises:
        LeaseLost: it is no longer ours.
    """
    claim, finish = context.claim, context.queue.finish
    try:
        outcome = build(claim.kind, claim.options).run(context)
        result = outcome.model_dump(mode="json", serialize_as_any=True)  # with what its kind adds
    except LeaseLost:
        raise
    except (JobFailed, Problem) as error:
        reason = error.detail if isinstance(error, Problem) else str(error)
        context.through_outages(lambda: finish(claim, JobState.FAILED, error=reason))
    except Exception as error:
        log.exception("job failed", job=str(claim.job_id))
        reason = f"unexpected error, see the log: {type(error).__name__}: {error}"
        context.through_outages(lambda: finish(claim, JobState.FAILED, error=reason))
    else:
        context.through_outages(lambda: finish(claim, JobState.SUCCEEDED, result=result))


def _beat(beat: Any) -> None:
    while True:
        beat.value = time.monotonic()
        time.sleep(BEAT_S)
