"""What a kind of job is, and what it works with while it runs."""

import logging
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.encoders.learned_heads import LearnedHeads
from app.encoders.promotion import Promotions
from app.encoders.versions import Versions
from app.jobs.job_queue import Claim, JobQueue
from app.sql.blob_marks import BlobSwept
from app.sql.database import Database
from app.sql.outages import is_outage
from app.sql.tables import Project
from app.storage.blobs import Blobs
from handful.contract.jobs import JobResult, Progress

OUTAGE_S = 300.0  # for how long a job waits for its database
PATIENCE_S = 1.0  # between two tries
log = logging.getLogger("handful.jobs")
Value = TypeVar("Value")


class JobFailed(Exception):
    """The job cannot end well; the message says why and what would help."""


@dataclass(frozen=True)
class JobContext:
    """A claimed job, and all that it works with. Every write carries the claim's token."""

    claim: Claim
    queue: JobQueue
    db: Database
    blobs: Blobs
    versions: Versions
    learned_heads: LearnedHeads
    promotions: Promotions
    max_pixels: int
    cache_bytes: int  # for decoded images
    decode_threads: int
    checkpoint_s: float  # seconds between two checkpoints

    @property
    def project_id(self) -> UUID:
        return self.claim.project_id

    def message(self, text: str, **data: Any) -> None:
        """Append a message to the job's events."""
        self._record("message", {"text": text} | data)

    def metrics(self, progress: Progress) -> None:
        """Append how far the job is to its events."""
        self._record("metrics", progress.model_dump(mode="json"))

    def picture(self, text: str, png: bytes, **data: Any) -> None:
        """Append a picture to the job's events; `url` holds all of it, as a `data:` URL."""
        url = f"data:image/png;base64,{b64encode(png).decode()}"
        self._record("picture", {"text": text, "url": url} | data)

    def last_metrics(self) -> Progress | None:
        """How far the job was when it last said so, in this attempt or an earlier one."""
        data = self.through_outages(lambda: self.queue.last_metrics(self.claim))
        return None if data is None else Progress.model_validate(data)

    def mark_running(self) -> None:
        """Say that all is prepared."""
        self.through_outages(lambda: self.queue.run(self.claim))

    def through_outages(self, use: Callable[[], Value]) -> Value:
        """Use the database, waiting while it is away."""
        started = time.monotonic()
        while True:
            try:
                return use()
            except SQLAlchemyError as error:
                if not is_outage(error) or time.monotonic() - started > OUTAGE_S:
                    raise
                log.warning("the database is away: %s", type(error).__name__)
                time.sleep(PATIENCE_S)

    def store(self, content: bytes, note: Callable[[Claim, str], Value]) -> tuple[str, Value]:
        """Store a file and note it in the job; both again if a sweep took the file in between.

        Raises:
            StorageFull: there is no space left.
        """
        while True:
            digest = self.blobs.put(content)
            try:
                return digest, self.through_outages(partial(note, self.claim, digest))
            except BlobSwept:
                continue

    def _record(self, kind: Any, data: dict[str, Any]) -> None:
        self.through_outages(lambda: self.queue.record(self.claim, kind, data))


@runtime_checkable
class JobKind(Protocol):
    """The options of one kind of job."""

    def check(self, session: Session, project: Project) -> "Checked":
        """Whether the project is ready for it.

        Raises:
            Problem: the project is not ready for it.
        """
        ...

    def run(self, context: JobContext) -> JobResult:
        """Do it, and return what came out.

        Raises:
            JobFailed: it cannot end well.
            LeaseLost: another worker has it now.
        """
        ...


class Checked(NamedTuple):
    """A job that a project is ready for."""

    options: JobKind  # to store: names that a client sent may be ids now
    input_fingerprint: str  # of what it depends on besides; two equal jobs do the same
