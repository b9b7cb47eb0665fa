"""Use cases: hand images out to an annotator alone, and take them back."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from app.ranking.filters import RankQuery
from app.ranking.ranking import RankedImage, Ranker
from app.sql.conflicts import retry_conflicts
from app.sql.database import Database
from app.sql.lookups import find_project, portions
from app.sql.tables import Image, Reservation
from models.acquisition import of_labeled

ATTEMPTS = 20  # at reserving images that others reserve at the same time


class Reserved(NamedTuple):
    """Images for one annotator, and until when."""

    encoder_id: UUID
    lease_until: datetime
    images: list[RankedImage]


@dataclass(frozen=True)
class Reservations:
    """Images in the hands of annotators; nobody else is handed them meanwhile."""

    db: Database
    ranker: Ranker

    def next(
        self, project_key: str, query: RankQuery, *, annotator: str, lease_s: float, name: str
    ) -> Reserved:
        """Hand images to an annotator that nobody else holds, nor this one has skipped.

        Args:
            name: of the strategy, to remember.

        Raises:
            TooFewLabels: as for `rank`.
            StrategyRefused: as for `rank`.
        """
        images: list[RankedImage] = []
        for _ in range(ATTEMPTS):
            with self.db.reading() as session:
                project = find_project(session, project_key)
                clock = self.db.clock(session)
                lease = Reservation.outcome.is_(None), Reservation.lease_until > clock
                reserved = _images(session, project.id, *lease)
                skipped = Reservation.outcome == "skipped", Reservation.annotator == annotator
                avoided = _images(session, project.id, *skipped)
                if of_labeled(query.strategy):
                    answered = Reservation.outcome == "labeled", Reservation.strategy == name
                    avoided |= _images(session, project.id, *answered)
            remaining = query._replace(budget=query.budget - len(images))
            ranked = self.ranker.rank_project(
                project, remaining, reserved=reserved, avoided=avoided
            )
            portion = self._reserve(project.id, ranked, annotator, lease_s, name)
            images += portion.images
            if len(images) >= query.budget or len(portion.images) == len(ranked):
                break
        return portion._replace(images=images)

    @retry_conflicts
    def skip(self, project_key: str, images: Sequence[UUID], annotator: str) -> int:
        """Give images back that an annotator holds, who will not get them again; how many."""
        with self.db.writing() as session:
            project = find_project(session, project_key, lock=True)
            ended = session.execute(
                update(Reservation)
                .where(
                    Reservation.project_id == project.id,
                    Reservation.annotator == annotator,
                    Reservation.outcome.is_(None),
                    Reservation.image_id.in_(images),
                )
                .values(outcome="skipped")
                .returning(Reservation.id)
            )
            return len(ended.all())

    @retry_conflicts
    def _reserve(
        self,
        project_id: UUID,
        ranked: Sequence[RankedImage],
        annotator: str,
        lease_s: float,
        strategy: str,
    ) -> Reserved:
        """Reserve ranked images, as far as they are free still."""
        with self.db.writing() as session:
            project = find_project(session, str(project_id), lock=True)
            clock = self.db.clock(session)
            until = clock + timedelta(seconds=lease_s)
            _end_lapsed(session, project.id, clock)
            free = _free_images(session, project.id, ranked)
            images = [r for r in ranked if r.image_id in free]
            session.add_all(
                Reservation(
                    project_id=project.id,
                    image_id=image.image_id,
                    annotator=annotator,
                    lease_until=until,
                    strategy=strategy,
                    propensity=image.propensity,
                )
                for image in images
            )
        return Reserved(project.encoder_id, until, images)


def _images(session: Session, project_id: UUID, *where: ColumnElement[bool]) -> set[UUID]:
    """The images of a project that were handed out under all of these conditions."""
    query = select(Reservation.image_id).where(Reservation.project_id == project_id, *where)
    return set(session.scalars(query))


def _end_lapsed(session: Session, project_id: UUID, clock: datetime) -> None:
    """Note which leases are over."""
    session.execute(
        update(Reservation)
        .where(
            Reservation.project_id == project_id,
            Reservation.outcome.is_(None),
            Reservation.lease_until <= clock,
        )
        .values(outcome="lapsed")
    )


def _free_images(session: Session, project_id: UUID, ranked: Sequence[RankedImage]) -> set[UUID]:
    """Which images are still with or without a label, as ranked, and in nobody's hands."""
    reserved = select(Reservation.image_id).where(
        Reservation.project_id == project_id, Reservation.outcome.is_(None)
    )
    labeled = {r.image_id for r in ranked if r.label is not None}
    free: set[UUID] = set()
    for portion in portions([r.image_id for r in ranked]):
        query = select(Image.id, Image.label_id).where(
            Image.project_id == project_id, Image.id.in_(portion), Image.id.not_in(reserved)
        )
        free.update(
            image
            for image, label in session.execute(query)
            if (label is not None) == (image in labeled)
        )
    return free
