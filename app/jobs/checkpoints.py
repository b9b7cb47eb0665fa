"""Checkpoints of a job: the state from which another process goes on."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from app.jobs.context import JobContext, JobFailed
from app.problems import StorageFull
from app.sql.blob_marks import remove_unused
from models.training.checkpoint import pack, unpack


class Checkpoint(NamedTuple):
    """All that a job needs to go on where it was."""

    material: dict[str, Any]  # what it learns from
    learner: dict[str, Any]  # what it has learned
    batch_size: int


class Checkpoints:
    """Those of one job. A new one replaces the last, whose file is removed."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._written_at = -float("inf")

    def resume(self) -> Checkpoint | None:
        """The one to go on from, if there is one that can be read."""
        context = self._context
        if context.claim.checkpoint is None:
            return None
        try:
            return Checkpoint(**unpack(context.blobs.get(context.claim.checkpoint)))
        except (FileNotFoundError, ValueError, TypeError):  # lost, damaged, of an older service
            context.message("the checkpoint cannot be read: starting over")
            return None

    def write(self, state: Callable[[], Checkpoint]) -> None:
        """Keep a state, if the last one is old enough.

        Raises:
            JobFailed: the disk is full.
        """
        if time.monotonic() - self._written_at < self._context.checkpoint_s:
            return
        context = self._context
        try:
            digest, stale = context.store(pack(state()._asdict()), context.queue.keep_file)
        except StorageFull as error:
            raise JobFailed(
                "the disk is full, so no checkpoint can be written: free some space and retry the "
                "job, which goes on from its last checkpoint"
            ) from error
        if stale is not None and stale != digest:
            context.through_outages(lambda: remove_unused(context.db, stale, context.blobs.remove))
        self._written_at = time.monotonic()
