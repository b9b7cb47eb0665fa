"""Label Studio: its tasks become images, their labels suggestions, its annotations labels.

The protocol is that of its machine learning backends (https://labelstud.io/guide/ml). Label Studio
waits for a webhook for one second and never repeats one, so events are answered first and worked
on later.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

import torch
from sqlalchemy import delete, select
from sqlalchemy.orm import Session
from torch import Tensor

from app.db import Database
from app.integrations.label_studio.host import Host
from app.integrations.label_studio.messages import (
    Control,
    Event,
    StudioAnnotation,
    StudioProject,
    StudioTask,
    read_config,
)
from app.labeling import Change, Labeling, Upload
from app.logs import logger
from app.prediction import ProjectHeads
from app.problems import AlreadyExists, InvalidRequest, Problem, TooFewLabels
from app.projects import Projects, find_project
from app.tables import (
    Embedding,
    Image,
    Label,
    LabelStudioAnnotation,
    LabelStudioProject,
    LabelStudioTask,
    Project,
    now,
)

SOURCE = "label_studio"  # of annotations
FRESH = 10  # labels, after which the suggestions count as new
FETCHING_THREADS = 8
IDS_PER_QUERY = 500

log = logger("handful.label_studio")


class Suggested(NamedTuple):
    """What the project makes of a task; no label where it cannot say, or has no image."""

    version: str
    label: str | None  # as Label Studio spells it
    confidence: float | None


@dataclass(frozen=True)
class LabelStudio:
    """A project as a machine learning backend, wired once in `app.main`."""

    db: Database
    labeling: Labeling
    heads: ProjectHeads
    projects: Projects
    host: Host
    _settling: threading.Lock = field(default_factory=threading.Lock)

    def set_up(
        self, project_key: str, studio_project: int, config: str, extra: Mapping[str, Any]
    ) -> str:
        """Make the labels of a labeling interface; the version of the suggestions.

        Args:
            extra: may name the `Choices` to use as `choices`, and give a `token`.

        Raises:
            InvalidRequest: the interface has no such `Choices` over an image.
        """
        wanted = extra.get("choices")
        control = read_config(config, str(wanted) if wanted else None)
        if token := extra.get("token"):
            self.host.offer(str(token))
        with self.db.reading() as session:
            project = find_project(session, project_key)
            known = session.get(LabelStudioProject, (project.id, studio_project))
        if known is None or known.choices != control.from_name:
            with self.db.writing() as session:
                session.merge(
                    LabelStudioProject(
                        project_id=project.id,
                        studio_project=studio_project,
                        choices=control.from_name,
                    )
                )
        self._make_labels(project, control.choices)
        return self.version(project_key)

    def version(self, project_key: str) -> str:
        """What Label Studio knows the suggestions by: the encoder version, and how much it saw."""
        view = self.projects.read(project_key)
        return f"{view.encoder.id.hex[-8:]}-{view.support // FRESH * FRESH}"

    def predict(
        self, project_key: str, studio_project: int, config: str, tasks: Sequence[StudioTask]
    ) -> tuple[Control, list[Suggested]]:
        """The likeliest label of each task; images that are new are put into the pool.

        Raises:
            InvalidRequest: the interface has no `Choices` over an image.
        """
        with self.db.reading() as session:
            project = find_project(session, project_key)
        control = self._control(project, studio_project, config)
        images = self._images(project, studio_project, control, tasks)
        version = self.version(project_key)
        try:
            fitted = self.heads.fitted(project)
        except TooFewLabels:
            return control, [Suggested(version, None, None) for _ in tasks]
        allowed = [n for n, name in enumerate(fitted.names) if name in control.choices]
        vectors = self._vectors(project, set(images.values())) if allowed else {}
        found = {}
        if vectors:
            chances = fitted.head.probabilities(torch.stack(list(vectors.values())).float())
            best = chances[:, allowed].max(dim=1)
            for image, n, confidence in zip(
                vectors, best.indices.tolist(), best.values.tolist(), strict=True
            ):
                label = control.choices[fitted.names[allowed[n]]]
                found[image] = Suggested(version, label, confidence)
        nothing = Suggested(version, None, None)
        return control, [
            found.get(images[task.id], nothing) if task.id in images else nothing for task in tasks
        ]

    def handle(self, project_key: str, event: Event) -> None:
        """Do what an event asks for; what cannot be done is logged, since nobody waits for it."""
        if (studio := event.project) is None:
            return
        with self.db.reading() as session:
            project = find_project(session, project_key)
        match event.action:
            case "ANNOTATION_CREATED" | "ANNOTATION_UPDATED" | "ANNOTATIONS_CREATED":
                self._annotated(project, studio, event)
            case "ANNOTATIONS_DELETED":
                self._deleted(project, studio.id, [one.id for one in event.annotations])
            case "TASKS_CREATED":
                control = self._control(project, studio.id, studio.label_config)
                self._images(project, studio.id, control, event.tasks)
            case "TASKS_DELETED":
                self._forget(project, studio.id, [one.id for one in event.tasks])
            case "PROJECT_UPDATED":
                control = self._control(project, studio.id, studio.label_config)
                self._make_labels(project, control.choices)

    def _control(self, project: Project, studio_project: int, config: str) -> Control:
        with self.db.reading() as session:
            known = session.get(LabelStudioProject, (project.id, studio_project))
        try:
            return read_config(config, known.choices if known else None)
        except InvalidRequest:
            return read_config(config)  # the control was renamed since

    def _make_labels(self, project: Project, names: Iterable[str]) -> None:
        with self.db.reading() as session:
            known = set(session.scalars(select(Label.name).where(Label.project_id == project.id)))
        for name in names:
            if name not in known:
                with suppress(AlreadyExists):  # in the meantime
                    self.projects.create_label(str(project.id), name)

    def _images(
        self,
        project: Project,
        studio_project: int,
        control: Control,
        tasks: Sequence[StudioTask],
    ) -> dict[int, UUID]:
        """The image of each task; of those that are new, if they can be fetched."""
        by_id = {task.id: task for task in tasks}
        known = self._known(project, studio_project, list(by_id))
        new = [task for number, task in by_id.items() if number not in known]
        if not new:
            return known
        with ThreadPoolExecutor(FETCHING_THREADS) as threads:
            fetched = threads.map(lambda task: self._fetch(task, control), new)
            added = self.labeling.add(str(project.id), fetched)
        for failed in added.failed:
            task = new[failed.position].id
            log.warning("image of a task not read", task=task, reason=failed.problem.detail)
        found = {new[one.position].id: one.image_id for one in added.stored}
        with self.db.writing() as session:
            find_project(session, str(project.id), lock=True)
            there = _present(session, list(found.values()))
            for task, image in found.items():
                if image in there:
                    session.merge(
                        LabelStudioTask(
                            project_id=project.id,
                            studio_project=studio_project,
                            task=task,
                            image_id=image,
                        )
                    )
        return known | found

    def _fetch(self, task: StudioTask, control: Control) -> Upload:
        address = task.data.get(control.field)
        name = f"task-{task.id}"
        try:
            if not isinstance(address, str) or not address:
                raise InvalidRequest(f"its data has no {control.field!r} with an address")
            if not address.startswith("data:"):
                last = address.rpartition("/")[2].removeprefix("?d=")  # of a local file
                name = last.partition("?")[0][-255:] or name
            return Upload(name, self.host.image(task.id, address))
        except Problem as problem:
            return Upload(name, problem)

    def _known(
        self, project: Project, studio_project: int, tasks: Sequence[int]
    ) -> dict[int, UUID]:
        found: dict[int, UUID] = {}
        with self.db.reading() as session:
            for start in range(0, len(tasks), IDS_PER_QUERY):
                query = select(LabelStudioTask.task, LabelStudioTask.image_id).where(
                    LabelStudioTask.project_id == project.id,
                    LabelStudioTask.studio_project == studio_project,
                    LabelStudioTask.task.in_(tasks[start : start + IDS_PER_QUERY]),
                )
                found.update((row[0], row[1]) for row in session.execute(query))
        return found

    def _vectors(self, project: Project, images: set[UUID]) -> dict[UUID, Tensor]:
        found: dict[UUID, Tensor] = {}
        wanted = sorted(images)
        with self.db.reading() as session:
            for start in range(0, len(wanted), IDS_PER_QUERY):
                query = select(Embedding.image_id, Embedding.vector).where(
                    Embedding.encoder_id == project.encoder_id,
                    Embedding.image_id.in_(wanted[start : start + IDS_PER_QUERY]),
                )
                found.update((row[0], row[1]) for row in session.execute(query))
        return found

    def _annotated(self, project: Project, studio: StudioProject, event: Event) -> None:
        control = self._control(project, studio.id, studio.label_config)
        self._images(project, studio.id, control, event.task)
        tasks = [task.id for task in event.task]
        said = {
            annotation.id: (annotation, task)
            for n, annotation in enumerate(event.annotation)
            if (task := annotation.task or (tasks[n] if n < len(tasks) else None)) is not None
        }
        labels = {a.label(control) for a, _ in said.values()} - {None}
        self._make_labels(project, sorted(label for label in labels if label))
        with self._settling:
            with self.db.writing() as session:
                find_project(session, str(project.id), lock=True)
                for annotation, task in said.values():
                    _keep(session, project, studio.id, control, annotation, task)
            self._settle(project, studio.id, {task for _, task in said.values()})

    def _deleted(self, project: Project, studio_project: int, annotations: Sequence[int]) -> None:
        tasks: set[int] = set()
        with self._settling:
            with self.db.writing() as session:
                find_project(session, str(project.id), lock=True)
                for start in range(0, len(annotations), IDS_PER_QUERY):
                    gone = session.scalars(
                        delete(LabelStudioAnnotation)
                        .where(
                            LabelStudioAnnotation.project_id == project.id,
                            LabelStudioAnnotation.studio_project == studio_project,
                            LabelStudioAnnotation.annotation.in_(
                                annotations[start : start + IDS_PER_QUERY]
                            ),
                        )
                        .returning(LabelStudioAnnotation.task)
                    )
                    tasks.update(gone)
            self._settle(project, studio_project, tasks)

    def _settle(self, project: Project, studio_project: int, tasks: set[int]) -> None:
        """Give the images of tasks the label that was said of them last, or none any more."""
        images = self._known(project, studio_project, sorted(tasks))
        changes = []
        with self.db.reading() as session:
            for task, image in images.items():
                last = session.scalar(
                    select(LabelStudioAnnotation)
                    .where(
                        LabelStudioAnnotation.project_id == project.id,
                        LabelStudioAnnotation.studio_project == studio_project,
                        LabelStudioAnnotation.task == task,
                        LabelStudioAnnotation.label.is_not(None),
                    )
                    .order_by(
                        LabelStudioAnnotation.updated_at.desc(),
                        LabelStudioAnnotation.annotation.desc(),
                    )
                    .limit(1)
                )
                label, annotator = (last.label, last.annotator) if last else (None, None)
                changes.append(Change(image, label, annotator, SOURCE))
        for failed in self.labeling.annotate(str(project.id), changes):
            log.warning("label not set", reason=failed.problem.detail)

    def _forget(self, project: Project, studio_project: int, tasks: Sequence[int]) -> None:
        """Tasks that were deleted; their images stay, with the labels they have."""
        with self.db.writing() as session:
            find_project(session, str(project.id), lock=True)
            for table in (LabelStudioTask, LabelStudioAnnotation):
                for start in range(0, len(tasks), IDS_PER_QUERY):
                    session.execute(
                        delete(table).where(
                            table.project_id == project.id,
                            table.studio_project == studio_project,
                            table.task.in_(tasks[start : start + IDS_PER_QUERY]),
                        )
                    )


def _present(session: Session, images: Sequence[UUID]) -> set[UUID]:
    """Which images were not deleted since."""
    found: set[UUID] = set()
    for start in range(0, len(images), IDS_PER_QUERY):
        some = images[start : start + IDS_PER_QUERY]
        found.update(session.scalars(select(Image.id).where(Image.id.in_(some))))
    return found


def _keep(
    session: Session,
    project: Project,
    studio_project: int,
    control: Control,
    annotation: StudioAnnotation,
    task: int,
) -> None:
    """Remember what an annotation says, unless something newer is known of it."""
    key = (project.id, studio_project, annotation.id)
    moment = annotation.updated_at or now()
    known = session.get(LabelStudioAnnotation, key)
    if known is not None and known.updated_at > moment:
        return
    session.merge(
        LabelStudioAnnotation(
            project_id=project.id,
            studio_project=studio_project,
            annotation=annotation.id,
            task=task,
            label=annotation.label(control),
            annotator=annotation.annotator,
            updated_at=moment,
        )
    )
