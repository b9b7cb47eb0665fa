"""How long rows stay that only grow in number: what is older goes, some at a time."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, inspect, or_, select, tuple_, update

from app.sql.columns import Table
from app.sql.conflicts import retry_conflicts
from app.sql.database import Database
from app.sql.tables import (
    Delivery,
    DoomedBlob,
    Job,
    JobEvent,
    Project,
    Removal,
    Reservation,
    StoredResponse,
)

AT_ONCE = 1000  # rows of one transaction, so that nobody waits for long
REVISIONS = 10_000  # of a project, whose removals are kept: a cache that is older starts again
GROWING = (Delivery, DoomedBlob, JobEvent, Removal, Reservation, StoredResponse)


@dataclass(frozen=True)
class Retention:
    """Forgets rows. Each method says how many it forgot."""

    db: Database
    delivery_days: float
    job_event_days: float
    reservation_days: float
    answer_hours: float

    def deliveries(self) -> int:
        """Messages to webhooks that arrived or were given up."""
        old = Delivery.created_at < self._clock() - timedelta(days=self.delivery_days)
        return self._delete(Delivery, Delivery.due_at.is_(None) & old)

    @retry_conflicts
    def job_events(self) -> int:
        """What jobs said that ended long ago, pictures first of all; not how they began and ended.

        Neither do those that failed keep their checkpoints: a retry starts over.
        """
        ended = Job.finished_at < self._clock() - timedelta(days=self.job_event_days)
        with self.db.writing() as session:
            session.execute(
                update(Job).where(ended, Job.checkpoint.is_not(None)).values(checkpoint=None)
            )
        of_ended = JobEvent.job_id.in_(select(Job.id).where(ended))
        return self._delete(JobEvent, (JobEvent.kind != "state") & of_ended)

    def reservations(self) -> int:
        """Images that were handed out in vain; what was labeled or skipped is of use still."""
        vain = or_(Reservation.outcome == "lapsed", Reservation.outcome.is_(None))
        old = Reservation.lease_until < self._clock() - timedelta(days=self.reservation_days)
        return self._delete(Reservation, vain & old)

    def answers(self) -> int:
        """Answers to an `Idempotency-Key`."""
        old = StoredResponse.created_at < self._clock() - timedelta(hours=self.answer_hours)
        return self._delete(StoredResponse, old)

    @retry_conflicts
    def removals(self) -> int:
        """Which images were deleted so many changes ago that caches had better read all anew."""
        with self.db.reading() as session:
            query = (
                select(Removal.project_id)
                .join(Project, Project.id == Removal.project_id)
                .where(Removal.revision <= Project.revision - REVISIONS)
                .distinct()
            )
            projects = list(session.scalars(query))
        count = 0
        for project_id in projects:
            with self.db.writing() as session:  # before they go, or a cache could miss one
                project = session.get(Project, project_id, with_for_update=True)
                if project is None:
                    continue
                project.removals_from = last = project.revision - REVISIONS
            mine = (Removal.project_id == project_id) & (Removal.revision <= last)
            count += self._delete(Removal, mine)
        return count

    def rows(self) -> dict[str, int]:
        """How many rows the tables have that would only grow."""
        with self.db.reading() as session:
            return {
                table.__tablename__: session.scalar(select(func.count()).select_from(table)) or 0
                for table in GROWING
            }

    def _clock(self) -> datetime:
        with self.db.reading() as session:
            return self.db.clock(session)

    @retry_conflicts
    def _delete(self, table: type[Table], condition: ColumnElement[bool]) -> int:
        key: Any = tuple_(*inspect(table).primary_key)
        count = 0
        while True:
            with self.db.writing() as session:
                rows = session.execute(
                    select(*inspect(table).primary_key).where(condition).limit(AT_ONCE)
                ).all()
                if rows:
                    session.execute(delete(table).where(key.in_([tuple(row) for row in rows])))
            count += len(rows)
            if len(rows) < AT_ONCE:
                return count
