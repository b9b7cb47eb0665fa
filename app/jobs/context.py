"""What a kind of job is, and what it works with while it runs."""

import logging
import time
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable
from uuid import UUID

import torch
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.encoders.promotion import Promotions
from app.encoders.versions import Versions
from app.jobs.job_queue import Claim, JobQueue
from app.jobs.training_data import FEWEST, DecodedImages, Labeled
from app.problems import StorageFull
from app.sql.database import Database
from app.sql.outages import is_outage
from app.sql.tables import Project, ProjectVersion
from app.storage.blobs import Blobs
from models.encoders import Encoder
from models.training.checkpoint import pack, unpack

OUTAGE_S = 300.0  # for how long a job waits for its database
PATIENCE_S = 1.0  # between two tries
log = logging.getLogger("handful.jobs")
Result = TypeVar("Result")


class JobFailed(Exception):
    """The job cannot end well; the message says why and what would help."""


class TrainedVersion(NamedTuple):
    """The version that a job made."""

    version: UUID
    champion: UUID  # the version that served the project when the job started
    verdict: dict[str, Any]


@dataclass
class JobContext:
    """A claimed job, and all that it works with. Every write carries the claim's token."""

    claim: Claim
    queue: JobQueue
    db: Database
    blobs: Blobs
    versions: Versions
    promotions: Promotions
    max_pixels: int
    cache_bytes: int  # for decoded images
    decode_threads: int
    checkpoint_s: float  # seconds between two checkpoints
    _kept_at: float = field(default=-float("inf"), init=False)

    @property
    def project_id(self) -> UUID:
        return self.claim.project_id

    def say(self, text: str, **data: Any) -> None:
        """Append a message to the job's events."""
        self.patiently(lambda: self.queue.record(self.claim, "message", {"text": text} | data))

    def tell(self, metrics: dict[str, Any]) -> None:
        """Append metrics to the job's events."""
        self.patiently(lambda: self.queue.record(self.claim, "metrics", metrics))

    def show(self, text: str, png: bytes, **data: Any) -> None:
        """Append a picture to the job's events; `url` holds all of it, as a `data:` URL."""
        url = f"data:image/png;base64,{b64encode(png).decode()}"
        told = {"text": text, "url": url} | data
        self.patiently(lambda: self.queue.record(self.claim, "picture", told))

    def running(self) -> None:
        """Say that all is prepared."""
        self.patiently(lambda: self.queue.run(self.claim))

    def keep(self, state: Callable[[], dict[str, Any]]) -> None:
        """Keep a checkpoint, if the last one is old enough.

        Raises:
            JobFailed: the disk is full.
        """
        if time.monotonic() - self._kept_at < self.checkpoint_s:
            return
        try:
            digest = self.blobs.put(pack(state()))
        except StorageFull as error:
            raise JobFailed(
                "the disk is full, so no checkpoint can be written: free some space and retry the "
                "job, which goes on from its last checkpoint"
            ) from error
        replaced = self.patiently(lambda: self.queue.keep_checkpoint(self.claim, digest))
        stale = None if replaced == digest else replaced
        if stale is not None and not self.patiently(partial(self.versions.blob_in_use, stale)):
            self.blobs.remove(stale)
        self._kept_at = time.monotonic()

    def checkpoint(self) -> dict[str, Any] | None:
        """The state to go on from, if there is one that can be read."""
        if self.claim.checkpoint is None:
            return None
        try:
            return unpack(self.blobs.get(self.claim.checkpoint))
        except (FileNotFoundError, ValueError):
            self.say("the checkpoint cannot be read: starting over")
            return None

    def decode(self, labeled: Labeled, encoder: Encoder) -> tuple[Labeled, DecodedImages]:
        """The images that can still be read, decoded as an encoder wants them.

        Raises:
            JobFailed: they are too few.
        """
        kept, images = self.readable([example.sha256 for example in labeled.examples], encoder)
        if len(kept) == len(labeled.examples):
            return labeled, images
        labeled = labeled.only(kept)
        if not labeled.is_enough:
            raise JobFailed(
                f"too few images can be read: at least {FEWEST} labels with {FEWEST} images each "
                "are needed; upload the missing ones again"
            )
        return labeled, images

    def readable(self, digests: Sequence[str], encoder: Encoder) -> tuple[list[int], DecodedImages]:
        """The positions of the images that can still be read, and these, decoded for an encoder."""
        images = DecodedImages(
            self.blobs,
            digests,
            encoder.preprocessing,
            max_pixels=self.max_pixels,
            cache_bytes=self.cache_bytes,
            threads=self.decode_threads,
        )
        lost = set(images.unreadable())
        kept = [n for n in range(len(images)) if n not in lost]
        if not lost:
            return kept, images
        self.say(f"{len(lost)} images cannot be read any more and are left out", skipped=len(lost))
        return kept, images.only(kept)

    def fitting(
        self, batch_size: int, attempt: Callable[[int, bool], Result], *, start: int
    ) -> Result:
        """Do what may take too much memory; once more with half the batch if it does.

        Args:
            batch_size: that was asked for.
            start: the one to start with; less where the job was interrupted after it was halved.
            attempt: is given the batch size, and whether it is the first attempt.

        Raises:
            JobFailed: half the batch is too much as well.
        """
        size = start
        while True:
            try:
                return attempt(size, size == batch_size)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                if size < batch_size or size == 1:
                    raise JobFailed(
                        f"out of memory even with batches of {size}: use a smaller batch_size, "
                        "fewer methods, or a smaller encoder"
                    ) from error
                size //= 2
                self.say(f"out of memory: starting over with batches of {size}")

    def made(self) -> "TrainedVersion | None":
        """The version that an earlier attempt of this job has made."""
        query = select(ProjectVersion).where(ProjectVersion.job_id == self.claim.job_id)

        def read() -> ProjectVersion | None:
            with self.db.reading() as session:
                return session.scalar(query)

        version = self.patiently(read)
        if version is None:
            return None
        verdict = dict(version.metrics)
        return TrainedVersion(version.encoder_id, UUID(verdict.pop("champion")), verdict)

    def conclude(
        self, made: "TrainedVersion", promote: Literal["auto", "never", "always"]
    ) -> dict[str, Any]:
        """Promote a version as its verdict says; the result of its job."""
        wanted = promote == "always" or (promote == "auto" and made.verdict["better"])
        instead_of = made.champion if promote == "auto" else None
        promoted = wanted and self.promote(made.version, instead_of=instead_of)
        if wanted and not promoted:
            self.say("another version was promoted meanwhile, so this one was not")
        return {"version": str(made.version), "promoted": promoted, "verdict": made.verdict}

    def promote(self, version: UUID, *, instead_of: UUID | None = None) -> bool:
        """Embed all images with a version, telling how far it is, and let it serve the project.

        Args:
            instead_of: only if this version serves the project; False when another does.
        """
        encoder = self.patiently(lambda: self.versions.load(version))
        unreadable: set[UUID] = set()
        while True:
            embedding = self.promotions.embed_missing(self.project_id, version, encoder, unreadable)
            # An outage ends the iterator; what is missing then is embedded in the next round.
            while (step := self.patiently(partial(next, embedding, None))) is not None:
                self.tell({"stage": "embedding", "done": step[0], "left": step[1]})
            moved, serves = self.patiently(lambda: self._move(version, unreadable, instead_of))
            if moved or (instead_of is not None and serves != instead_of):
                break
        if unreadable:
            self.say(f"{len(unreadable)} images cannot be read any more and have no embedding")
        return moved

    def _move(
        self, version: UUID, unreadable: set[UUID], instead_of: UUID | None
    ) -> tuple[bool, UUID]:
        """Whether the version serves the project now, and which one does."""
        with self.queue.holding(self.claim) as session:
            moved = self.promotions.move(
                session, self.project_id, version, unreadable, instead_of=instead_of
            )
            return moved, session.get_one(Project, self.project_id).encoder_id

    def patiently(self, use: Callable[[], Result]) -> Result:
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


def _out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; on the CPU torch says so with a plain RuntimeError."""
    plain = "can't allocate memory" in str(error) or "not enough memory" in str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or plain


@runtime_checkable
class JobKind(Protocol):
    """The options of one kind of job."""

    def check(self, session: Session, project: Project) -> "Checked":
        """Whether the project is ready for it.

        Raises:
            Problem: the project is not ready for it.
        """
        ...

    def run(self, work: JobContext) -> dict[str, Any]:
        """Do it, and return the job's result.

        Raises:
            JobFailed: it cannot end well.
            LeaseLost: another worker has it now.
        """
        ...


class Checked(NamedTuple):
    """A job that a project is ready for."""

    options: JobKind  # to store: what was given as names may be ids now
    given: str  # what it depends on besides; two jobs of which both are equal do the same
