"""What is known here of a project of Label Studio: its tasks and annotations, in SQL."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session

from app.sql.conflicts import retry_conflicts
from app.sql.database import Database
from app.sql.lookups import find_project, portions
from app.sql.tables import Image, LabelStudioAnnotation, LabelStudioProject, LabelStudioTask

BookTable = type[LabelStudioTask] | type[LabelStudioAnnotation]


class StudioLabel(NamedTuple):
    """The label that an annotation gives a task."""

    annotation: int
    task: int
    label: str | None  # None: skipped, or no choice
    annotator: str | None
    updated_at: datetime


@dataclass(frozen=True)
class Book:
    """The tasks and annotations of one project of Label Studio."""

    db: Database
    project_id: UUID
    studio_project: int

    def project(self) -> LabelStudioProject | None:
        """What is known of the project itself."""
        with self.db.reading() as session:
            return session.get(LabelStudioProject, (self.project_id, self.studio_project))

    @retry_conflicts
    def remember(self, *, choices: str, **more: str) -> None:
        """The name of its control, and with `pushed` the version of its suggestions."""
        with self.db.writing() as session:
            session.merge(LabelStudioProject(**self._key, choices=choices, **more))

    def images(self, tasks: Iterable[int]) -> dict[int, UUID]:
        """The image of each task that is known."""
        images: dict[int, UUID] = {}
        with self.db.reading() as session:
            for portion in portions(list(tasks)):
                query = select(LabelStudioTask.task, LabelStudioTask.image_id)
                query = query.where(*self._of(LabelStudioTask), LabelStudioTask.task.in_(portion))
                images.update((row[0], row[1]) for row in session.execute(query))
        return images

    def present(self, images: Iterable[UUID]) -> set[UUID]:
        """Which images the project has."""
        with self.db.reading() as session:
            return self._present(session, images)

    @retry_conflicts
    def add(self, images: Mapping[int, UUID]) -> None:
        """Which image each task shows; an image that was deleted meanwhile is left out."""
        with self._writing() as session:
            present = self._present(session, images.values())
            for task, image in images.items():
                if image in present:
                    session.merge(LabelStudioTask(**self._key, task=task, image_id=image))

    def unlabeled(self) -> dict[int, UUID]:
        """The tasks whose images have no label, and those images."""
        query = (
            select(LabelStudioTask.task, LabelStudioTask.image_id)
            .join(Image, Image.id == LabelStudioTask.image_id)
            .where(*self._of(LabelStudioTask), Image.label_id.is_(None))
            .order_by(LabelStudioTask.task)
        )
        with self.db.reading() as session:
            return {row[0]: row[1] for row in session.execute(query)}

    @retry_conflicts
    def record(self, labels: Iterable[StudioLabel]) -> None:
        """What annotations say, unless something newer is known of them."""
        with self._writing() as session:
            for label in labels:
                key = (self.project_id, self.studio_project, label.annotation)
                row = session.get(LabelStudioAnnotation, key)
                if row is None or row.updated_at <= label.updated_at:
                    session.merge(LabelStudioAnnotation(**self._key, **label._asdict()))

    @retry_conflicts
    def drop(self, annotations: Sequence[int]) -> set[int]:
        """Forget annotations that were deleted; their tasks."""
        tasks: set[int] = set()
        with self._writing() as session:
            for portion in portions(annotations):
                query = delete(LabelStudioAnnotation).where(
                    *self._of(LabelStudioAnnotation), LabelStudioAnnotation.annotation.in_(portion)
                )
                tasks.update(session.scalars(query.returning(LabelStudioAnnotation.task)))
        return tasks

    def last(self, task: int) -> LabelStudioAnnotation | None:
        """What was said of a task last."""
        query = (
            select(LabelStudioAnnotation)
            .where(
                *self._of(LabelStudioAnnotation),
                LabelStudioAnnotation.task == task,
                LabelStudioAnnotation.label.is_not(None),
            )
            .order_by(
                LabelStudioAnnotation.updated_at.desc(), LabelStudioAnnotation.annotation.desc()
            )
            .limit(1)
        )
        with self.db.reading() as session:
            return session.scalar(query)

    @retry_conflicts
    def forget(self, tasks: Sequence[int]) -> None:
        """Tasks that were deleted, with what was said of them."""
        with self._writing() as session:
            for table in (LabelStudioTask, LabelStudioAnnotation):
                for portion in portions(tasks):
                    session.execute(delete(table).where(*self._of(table), table.task.in_(portion)))

    def vanished(self, tasks: set[int], annotations: set[int]) -> tuple[list[int], list[int]]:
        """The tasks, and the annotations of other tasks, that are known and not among these."""
        all_tasks = select(LabelStudioTask.task).where(*self._of(LabelStudioTask))
        all_annotations = select(
            LabelStudioAnnotation.annotation, LabelStudioAnnotation.task
        ).where(*self._of(LabelStudioAnnotation))
        with self.db.reading() as session:
            lost_tasks = [task for task in session.scalars(all_tasks) if task not in tasks]
            lost_annotations = [
                annotation
                for annotation, task in session.execute(all_annotations)
                if task in tasks and annotation not in annotations
            ]
        return lost_tasks, lost_annotations

    @property
    def _key(self) -> dict[str, Any]:
        return {"project_id": self.project_id, "studio_project": self.studio_project}

    def _of(self, table: BookTable) -> tuple[ColumnElement[bool], ...]:
        return table.project_id == self.project_id, table.studio_project == self.studio_project

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        """A session that has the project to itself, so that nobody writes the same row twice."""
        with self.db.writing() as session:
            find_project(session, str(self.project_id), lock=True)
            yield session

    def _present(self, session: Session, images: Iterable[UUID]) -> set[UUID]:
        present: set[UUID] = set()
        for portion in portions(list(images)):
            query = select(Image.id).where(
                Image.project_id == self.project_id, Image.id.in_(portion)
            )
            present.update(session.scalars(query))
        return present
