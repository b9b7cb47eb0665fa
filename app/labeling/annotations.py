"""Use cases of annotations: set labels, take them back, and remember who said so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.labeling.images import ImageView, find_image
from app.problems import AlreadyLabeled, Failed, NothingToUndo, Problem
from app.sql.conflicts import retry_conflicts
from app.sql.database import Database, seal
from app.sql.lookups import find_label, find_project, page_of
from app.sql.tables import Annotation, Label, Project, Reservation, now
from app.webhooks.outbox import tell, tell_if_exhausted
from handful.contract.webhooks import Event


class Change(NamedTuple):
    """A label to set, or to take back, on one image."""

    image_id: UUID
    label: str | None
    annotator: str | None
    source: str
    replace: bool = True  # also what someone else has said


@dataclass(frozen=True)
class Annotations:
    """What is said of images: labels set and taken back, and the history of it."""

    db: Database

    @retry_conflicts
    def set_label(self, project_key: str, change: Change) -> ImageView:
        """Give an image a label, or with None send it back to the pool."""
        with self.db.writing() as session:
            project = find_project(session, project_key, lock=True)
            return _apply_change(session, project, change)

    @retry_conflicts
    def annotate(self, project_key: str, changes: Sequence[Change]) -> list[Failed]:
        """Many changes in one transaction; one that cannot be made fails alone."""
        failed = []
        with self.db.writing() as session:
            project = find_project(session, project_key, lock=True)
            for position, change in enumerate(changes):
                try:
                    _apply_change(session, project, change)
                except Problem as problem:
                    failed.append(Failed(position, None, problem))
        return failed

    @retry_conflicts
    def undo(self, project_key: str, image_id: UUID, annotator: str | None) -> ImageView:
        """Take back the last change of an image's label that was not taken back yet.

        Raises:
            NothingToUndo: there is none.
            LabelNotFound: the label it had before has been deleted.
        """
        with self.db.writing() as session:
            project = find_project(session, project_key, lock=True)
            view = find_image(session, project, image_id)
            last = session.scalar(
                select(Annotation)
                .where(
                    Annotation.image_id == image_id,
                    Annotation.source != "undo",
                    Annotation.undone.is_(False),
                )
                .order_by(Annotation.id.desc())
                .limit(1)
            )
            if last is None:
                raise NothingToUndo(f"image {image_id} has no change that could be taken back")
            label = find_label(session, project, last.previous) if last.previous else None
            last.undone = True
            if set_label(session, view, label, annotator, "undo", project.revision + 1):
                project.revision += 1
            seal(session)
            return ImageView(view.image, label.name if label else None)

    def history(
        self, project_key: str, image_id: UUID, after: UUID | None, limit: int
    ) -> list[Annotation]:
        """The changes of an image's label, newest first."""
        with self.db.reading() as session:
            find_image(session, find_project(session, project_key), image_id)
            query = select(Annotation).where(Annotation.image_id == image_id)
            page = page_of(query, Annotation.id, after, limit, newest_first=True)
            return list(session.scalars(page))


def set_label(
    session: Session,
    view: ImageView,
    label: Label | None,
    annotator: str | None,
    source: str,
    revision: int,
) -> bool:
    """Change an image's label and remember it; False when it has that label already."""
    return bool(set_labels(session, [view], label, annotator, source, revision))


def set_labels(
    session: Session,
    views: Sequence[ImageView],
    label: Label | None,
    annotator: str | None,
    source: str,
    revision: int,
) -> int:
    """Change the labels of different images and remember it; how many had another label.

    Either answers whoever holds an image.
    """
    _end_reservations(session, [v.image.id for v in views if label or v.image.label_id])
    label_id, name = (label.id, label.name) if label else (None, None)
    changed = [view for view in views if view.image.label_id != label_id]
    for view in changed:
        view.image.label_id = label_id
        view.image.labeled_at = now() if label else None
        view.image.revision = revision
        session.add(
            Annotation(
                image_id=view.image.id,
                label=name,
                previous=view.label,
                annotator=annotator,
                source=source,
            )
        )
    session.flush()  # many rows at once
    for view in changed:
        payload = {
            "image": str(view.image.id),
            "label": name,
            "previous": view.label,
            "annotator": annotator,
            "source": source,
        }
        tell(session, view.image.project_id, Event.LABEL_SET, payload)
    if label and source != "support" and any(view.label is None for view in changed):
        tell_if_exhausted(session, label.project_id)
    return len(changed)


def _apply_change(session: Session, project: Project, change: Change) -> ImageView:
    """Set or take back one label, within a transaction that has locked the project."""
    view = find_image(session, project, change.image_id)
    label = find_label(session, project, change.label) if change.label is not None else None
    if label is not None and not change.replace:
        _refuse_if_answered(session, view, label, change.annotator)
    if set_label(session, view, label, change.annotator, change.source, project.revision + 1):
        project.revision += 1
    return ImageView(view.image, label.name if label else None)


def _refuse_if_answered(
    session: Session, view: ImageView, label: Label, annotator: str | None
) -> None:
    """Keep what another annotator said, unless this one says the same.

    Raises:
        AlreadyLabeled: holds the answer that is there.
    """
    image = view.image
    if annotator is None or image.label_id in (None, label.id):
        return
    last = session.scalar(
        select(Annotation)
        .where(Annotation.image_id == image.id)
        .order_by(Annotation.id.desc())
        .limit(1)
    )
    if last is None or last.annotator in (None, annotator):
        return
    raise AlreadyLabeled(
        f"{last.annotator!r} has labeled image {image.id} as {view.label!r}; "
        "send replace: true to overrule",
        label=view.label,
        annotator=last.annotator,
        labeled_at=image.labeled_at,
    )


def _end_reservations(session: Session, image_ids: Sequence[UUID]) -> None:
    if image_ids:
        held = Reservation.image_id.in_(image_ids), Reservation.outcome.is_(None)
        session.execute(update(Reservation).where(*held).values(outcome="labeled"))
