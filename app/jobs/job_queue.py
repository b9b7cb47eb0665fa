"""The queue of background jobs, in SQL: enqueue, claim, keep, finish.

A claim has a lease that its worker renews, and a token that every write of the worker carries. When
the lease runs out another worker claims the job with a new token, so that what a worker writes that
only seemed dead changes nothing.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from app.problems import (
    JobEnded,
    JobNotFound,
    PredictionsNotFound,
    ProjectNotFound,
    SameJobUnfinished,
)
from app.sql.blob_marks import BlobSwept, unmark
from app.sql.conflicts import retry_conflicts
from app.sql.database import Database, seal
from app.sql.lookups import find_project
from app.sql.tables import Job, JobEvent, now
from app.webhooks.outbox import tell
from handful.contract.jobs import FINAL, JobState
from handful.contract.webhooks import Event

HELD = (JobState.PREPARING, JobState.RUNNING)
WAITING = (JobState.QUEUED, JobState.INTERRUPTED)
LONGEST_PAUSE_S = 600.0  # between two attempts
CLAIMS = 0x68616E6466756C  # PostgreSQL's number of the lock of those who claim


class LeaseLost(RuntimeError):
    """The job is no longer ours: it was claimed by another worker, or its project was deleted."""


class Claim(NamedTuple):
    """A job in the hands of a worker."""

    job_id: UUID
    project_id: UUID
    kind: str
    options: dict[str, Any]
    token: UUID
    attempt: int  # from 1
    checkpoint: str | None  # SHA-256 of the file to go on from


@dataclass(frozen=True)
class JobQueue:
    """Jobs of all projects. First those of projects of which none runs, then by how long they wait.

    Args:
        lease_s: seconds for which a claim holds without being renewed.
        max_attempts: how often a job whose worker was lost is taken up again, the first included.
        backoff_s: seconds until the second attempt; twice as many until the third, and so on. Those
            that wait already come first then, so that one that never ends well stops no other.
    """

    db: Database
    lease_s: float = 30.0
    max_attempts: int = 5
    backoff_s: float = 0.0

    @retry_conflicts
    def enqueue(
        self, project_key: str, kind: str, options: dict[str, Any], input_fingerprint: str
    ) -> Job:
        """Add a job.

        Args:
            input_fingerprint: of what else the job depends on, such as the labels it learns from.

        Raises:
            SameJobUnfinished: the project has a job of the same kind, options and input in work.
        """
        described = json.dumps([kind, options, input_fingerprint], sort_keys=True)
        fingerprint = hashlib.sha256(described.encode()).hexdigest()
        with self.db.writing() as session:
            project = find_project(session, project_key, lock=True)
            same = session.scalar(
                select(Job.id).where(
                    Job.project_id == project.id,
                    Job.fingerprint == fingerprint,
                    Job.state.not_in(FINAL),
                )
            )
            if same is not None:
                raise SameJobUnfinished(f"job {same} does the same; wait for it or cancel it")
            job = Job(
                project_id=project.id,
                kind=kind,
                options=options,
                fingerprint=fingerprint,
                due_at=self.db.clock(session),
            )
            session.add(job)
            session.flush()
            _append(session, job, "state", {"state": JobState.QUEUED})
            seal(session)
            return job

    @retry_conflicts
    def claim(self) -> Claim | None:
        """Take the job that is next, also one whose worker was lost; None when there is none."""
        with self.db.writing() as session:
            if not self.db.is_sqlite:  # whoever else claims at this moment sees what we take
                session.execute(select(func.pg_advisory_xact_lock(CLAIMS)))
            clock = self.db.clock(session)
            while (job := self._next(session, clock)) is not None:
                if job.state in HELD:
                    self._interrupt(session, job, clock, "its worker was lost")
                    continue  # it has ended by that, or waits again
                job.attempt += 1
                job.token = uuid4()
                job.lease_until = clock + timedelta(seconds=self.lease_s)
                job.started_at = job.started_at or now()
                _enter(session, job, JobState.PREPARING, attempt=job.attempt)
                task = job.id, job.project_id, job.kind, job.options
                return Claim(*task, job.token, job.attempt, job.checkpoint)
            return None

    def has_waiting(self) -> bool:
        """Whether a job waits, for a worker or for its next attempt."""
        with self.db.reading() as session:
            return bool(session.scalar(select(exists().where(Job.state.in_(WAITING)))))

    @retry_conflicts
    def renew(self, claim: Claim, wait_s: float | None = None) -> bool:
        """Keep a claim for another lease; whether the job should be cancelled.

        Args:
            wait_s: for a lock, as in `Database.writing`.

        Raises:
            LeaseLost: as for every write of a worker.
        """
        with self.db.writing(wait_s) as session:
            job = _held(session, claim)
            job.lease_until = self.db.clock(session) + timedelta(seconds=self.lease_s)
            return job.cancel_requested

    def cancel_requested(self, claim: Claim) -> bool:
        """Whether the job should be cancelled; reads only.

        Raises:
            LeaseLost: as for every write of a worker.
        """
        with self.db.reading() as session:
            query = select(Job.cancel_requested).where(Job.id == claim.job_id, _ours(claim))
            requested = session.scalar(query)
        if requested is None:
            raise LeaseLost(f"job {claim.job_id} is no longer ours")
        return requested

    @retry_conflicts
    def run(self, claim: Claim) -> None:
        """Say that the job is prepared and computes from now on."""
        with self.db.writing() as session:
            _enter(session, _held(session, claim), JobState.RUNNING)

    @retry_conflicts
    def record(
        self, claim: Claim, kind: Literal["metrics", "message", "picture"], data: dict[str, Any]
    ) -> None:
        """Append an event."""
        with self.db.writing() as session:
            _append(session, _held(session, claim), kind, data)

    @retry_conflicts
    def keep_file(
        self, claim: Claim, digest: str, use: Literal["checkpoint", "predictions"] = "checkpoint"
    ) -> str | None:
        """Note a file to go on from, or what the job predicted; the file that it replaces, if any.

        Raises:
            BlobSwept: store the file again.
        """
        with self.db.writing() as session:
            job = _held(session, claim)
            if unmark(session, [digest]):
                replaced: str | None = getattr(job, use)
                setattr(job, use, digest)
                return replaced
        raise BlobSwept(digest)  # once it is written that the file may come again

    @contextmanager
    def holding(self, claim: Claim) -> Iterator[Session]:
        """A transaction in which the job is ours; it commits at the end, or not at all.

        It locks the project first and then the job, as everybody else does.
        """
        with self.db.writing() as session:
            try:
                find_project(session, str(claim.project_id), lock=True)
            except ProjectNotFound as error:
                raise LeaseLost("the project was deleted") from error
            _held(session, claim)
            yield session

    @retry_conflicts
    def interrupt(self, claim: Claim, reason: str, *, counts: bool = True) -> None:
        """Give a job back whose process was lost, for another attempt while there are any left.

        Args:
            counts: whether the attempt that ended counts.
        """
        with self.db.writing() as session:
            job = _held(session, claim)
            job.attempt -= not counts
            self._interrupt(session, job, self.db.clock(session), reason, pause=counts)

    @retry_conflicts
    def finish(
        self,
        claim: Claim,
        state: Literal[JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED],
        *,
        result: dict[str, Any] | None = None,
        error: str | None = None,
    ) -> None:
        """End a job, once."""
        with self.db.writing() as session:
            _end(session, _held(session, claim), state, result=result, error=error)

    @retry_conflicts
    def cancel(self, project_key: str, job_id: UUID) -> Job:
        """End a job that waits, or ask its worker to stop; nothing when it was asked already.

        Raises:
            JobEnded: there is nothing left to cancel.
        """
        with self.db.writing() as session:
            job = _find(session, project_key, job_id, lock=True)
            if job.state in FINAL:
                raise JobEnded(f"job {job_id} has {job.state} and cannot be cancelled")
            if job.state in WAITING:
                _end(session, job, JobState.CANCELLED)
            job.cancel_requested = True
            seal(session)
            return job

    @retry_conflicts
    def retry(self, project_key: str, job_id: UUID) -> Job:
        """Queue a job again that failed or was cancelled; it goes on from its last checkpoint.

        Raises:
            JobEnded: it succeeded, or is still in work.
        """
        with self.db.writing() as session:
            job = _find(session, project_key, job_id, lock=True)
            if job.state not in (JobState.FAILED, JobState.CANCELLED):
                raise JobEnded(f"job {job_id} is {job.state}; only what failed or was cancelled "
                               "can be tried again")  # fmt: skip
            job.attempt, job.error, job.cancel_requested, job.finished_at = 0, None, False, None
            job.due_at = self.db.clock(session)
            _enter(session, job, JobState.QUEUED)
            seal(session)
            return job

    def read(self, project_key: str, job_id: UUID) -> Job:
        """One job."""
        with self.db.reading() as session:
            return _find(session, project_key, job_id)

    def predictions(self, project_key: str, job_id: UUID) -> str:
        """The SHA-256 of the file of what a job predicted.

        Raises:
            JobEnded: it has not succeeded, so that there may be one yet.
            PredictionsNotFound: it is of a kind that predicts nothing.
        """
        job = self.read(project_key, job_id)
        if job.predictions is not None:
            return job.predictions
        if job.state == JobState.SUCCEEDED:
            raise PredictionsNotFound(f"job {job_id} is a {job.kind}, which predicts nothing")
        raise JobEnded(f"job {job_id} is {job.state} and has no predictions yet")

    def page(self, project_key: str, after: UUID | None, limit: int) -> list[Job]:
        """The jobs of a project, newest first."""
        with self.db.reading() as session:
            query = select(Job).where(Job.project_id == find_project(session, project_key).id)
            if after is not None:
                query = query.where(Job.id < after)
            return list(session.scalars(query.order_by(Job.id.desc()).limit(limit)))

    def events(self, job_id: UUID, after: int, limit: int = 1000) -> Sequence[JobEvent]:
        """The events of a job with numbers above `after`, in order."""
        with self.db.reading() as session:
            return session.scalars(
                select(JobEvent)
                .where(JobEvent.job_id == job_id, JobEvent.number > after)
                .order_by(JobEvent.number)
                .limit(limit)
            ).all()

    def last_metrics(self, claim: Claim) -> dict[str, Any] | None:
        """The last metrics that were told of a job."""
        with self.db.reading() as session:
            return session.scalar(
                select(JobEvent.data)
                .where(JobEvent.job_id == claim.job_id, JobEvent.kind == "metrics")
                .order_by(JobEvent.number.desc())
                .limit(1)
            )

    def _next(self, session: Session, clock: datetime) -> Job | None:
        """The job to be taken up next, or whose lease has run out; locked."""
        running = aliased(Job)
        project_is_busy = exists().where(
            running.project_id == Job.project_id,
            running.state.in_(HELD),
            running.lease_until >= clock,
        )
        due = Job.state.in_(WAITING) & (Job.due_at <= clock)
        lost = Job.state.in_(HELD) & (Job.lease_until < clock)
        return session.scalar(
            select(Job)
            .where(or_(due, lost))
            .order_by(lost.desc(), project_is_busy, Job.due_at, Job.id)
            .limit(1)
            .with_for_update(skip_locked=True, of=Job)
        )

    def _interrupt(
        self, session: Session, job: Job, clock: datetime, reason: str, *, pause: bool = True
    ) -> None:
        """Note that a job was interrupted; its end, when that has happened too often."""
        if job.cancel_requested:
            _end(session, job, JobState.CANCELLED)
        elif job.attempt >= self.max_attempts:
            error = f"interrupted {job.attempt} times, at last because {reason}; see the log"
            _end(session, job, JobState.FAILED, error=error)
        else:
            job.token, job.lease_until = None, None
            if pause:
                pause_s = min(self.backoff_s * 2.0 ** min(job.attempt - 1, 20), LONGEST_PAUSE_S)
                job.due_at = clock + timedelta(seconds=pause_s)
            _enter(session, job, JobState.INTERRUPTED, reason=reason)


def _find(session: Session, project_key: str, job_id: UUID, *, lock: bool = False) -> Job:
    project = find_project(session, project_key)
    query = select(Job).where(Job.project_id == project.id, Job.id == job_id)
    job = session.scalar(query.with_for_update() if lock else query)
    if job is None:
        raise JobNotFound(f"project {project.name!r} has no job {job_id}")
    return job


def _ours(claim: Claim) -> ColumnElement[bool]:
    return (Job.token == claim.token) & Job.state.in_(HELD)


def _held(session: Session, claim: Claim) -> Job:
    query = select(Job).where(Job.id == claim.job_id, _ours(claim))
    job = session.scalar(query.with_for_update())
    if job is None:
        raise LeaseLost(f"job {claim.job_id} is no longer ours")
    return job


def _enter(session: Session, job: Job, state: JobState, **data: Any) -> None:
    job.state = state
    _append(session, job, "state", {"state": state} | data)


def _end(
    session: Session,
    job: Job,
    state: JobState,
    *,
    result: dict[str, Any] | None = None,
    error: str | None = None,
) -> None:
    job.result, job.error = result, error
    job.token, job.lease_until, job.finished_at = None, None, now()
    if state == JobState.SUCCEEDED:
        job.checkpoint = None  # there is nothing to go on with
    _enter(session, job, state, **({"error": error} if error else {}))
    document = {"job": str(job.id), "kind": job.kind, "state": state, "error": error}
    tell(session, job.project_id, Event.JOB_FINISHED, document)


def _append(session: Session, job: Job, kind: str, data: dict[str, Any]) -> None:
    job.events += 1
    session.add(JobEvent(job_id=job.id, number=job.events, kind=kind, data=data))
