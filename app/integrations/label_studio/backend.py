"""Label Studio: its tasks become images, their labels suggestions, its annotations labels.

The protocol is that of its machine learning backends (https://labelstud.io/guide/ml). Label Studio
waits for a webhook for one second and never repeats one, so events are answered first and worked
on later.
"""

import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import torch
from sqlalchemy import select

from app.integrations.label_studio.book import Book, StudioLabel
from app.integrations.label_studio.host import Host
from app.integrations.label_studio.messages import (
    Control,
    StudioAnnotation,
    StudioEvent,
    StudioProject,
    StudioTask,
    read_config,
)
from app.labeling.annotations import Annotations, Change
from app.labeling.labels import Labels
from app.labeling.projects import Projects
from app.labeling.uploads import Upload, Uploads
from app.logs import logger
from app.prediction.cache import PredictorCache
from app.problems import AlreadyExists, InvalidRequest, Problem, TooFewLabels
from app.ranking.filters import RankQuery
from app.ranking.ranking import Ranker
from app.sql.columns import Float16s
from app.sql.database import Database
from app.sql.lookups import find_project, label_names, portions
from app.sql.tables import Embedding, Project, now
from models.acquisition import AcquisitionStrategy

SOURCE = "label_studio"  # of annotations
FRESH = 10  # labels, after which the suggestions count as new
FIRST = 100  # images in the order in which they are the most worth labeling
ROWS_PER_CALL = 1000
FETCHING_THREADS = 8
# The name of a file that `handful label-studio connect` has uploaded: the id of its image.
NAMED = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.[a-z]+$")
log = logger("handful.label_studio")


class Pushed(NamedTuple):
    """Suggestions that Label Studio has now."""

    version: str
    tasks: int


class Synced(NamedTuple):
    """What Label Studio has, and is known here."""

    version: str  # of the suggestions that were pushed
    tasks: int
    annotations: int


class SuggestedChoice(NamedTuple):
    """What the project makes of a task; no label where it cannot say, or has no image."""

    version: str
    label: str | None  # as Label Studio spells it
    confidence: float | None


@dataclass(frozen=True)
class LabelStudioBackend:
    """A project as a machine learning backend."""

    db: Database
    uploads: Uploads
    annotations: Annotations
    predictors: PredictorCache
    projects: Projects
    labels: Labels
    ranker: Ranker
    host: Host
    strategy: AcquisitionStrategy  # of what is handed out first
    _relabeling: threading.Lock = field(default_factory=threading.Lock)
    _pushing: threading.Lock = field(default_factory=threading.Lock)

    def set_up(
        self, project_key: str, studio_project: int, config: str, extra: Mapping[str, Any]
    ) -> str:
        """Make the labels of a labeling interface; the version of the suggestions.

        Args:
            extra: may name the `Choices` to use as `choices`, and give a `token`.

        Raises:
            InvalidRequest: the interface has no such `Choices` over an image.
        """
        choices = extra.get("choices")
        control = read_config(config, str(choices) if choices else None)
        if token := extra.get("token"):
            self.host.offer(str(token))
        project, book = self._open(project_key, studio_project)
        studio = book.project()
        if studio is None or studio.choices != control.from_name:
            book.remember(choices=control.from_name)
        self._make_labels(project, control.choices)
        return self.version(project_key)

    def version(self, project_key: str) -> str:
        """What Label Studio knows the suggestions by: the encoder version, and how much it saw."""
        view = self.projects.read(project_key)
        return f"{view.encoder.id.hex[-8:]}-{view.support // FRESH * FRESH}"

    def predict(
        self, project_key: str, studio_project: int, config: str, tasks: Sequence[StudioTask]
    ) -> tuple[Control, list[SuggestedChoice]]:
        """The likeliest label of each task; images that are new are put into the pool.

        Raises:
            InvalidRequest: the interface has no `Choices` over an image.
        """
        project, book = self._open(project_key, studio_project)
        control = _control(book, config)
        images = self._images(project, book, control, tasks)
        choices = self._suggest(project, control, set(images.values()))
        nothing = SuggestedChoice(self.version(project_key), None, None)
        return control, [
            choices.get(images[task.id], nothing) if task.id in images else nothing
            for task in tasks
        ]

    def push(self, project_key: str, studio_project: int) -> Pushed:
        """Put suggestions for all tasks without a label into Label Studio, and their order.

        Label Studio's uncertainty sampling hands out the lowest score first. So scores are the
        probabilities of the suggested labels, but for the `FIRST` images that are the most worth
        labeling: theirs are below all others, in order. From now on they are pushed again after
        every `FRESH` labels.

        Raises:
            AddressRefused: Label Studio's address is not set.
            AddressUnreachable: it does not answer, or refuses.
        """
        project, book = self._open(project_key, studio_project)
        studio = StudioProject(**self.host.call("GET", f"/api/projects/{studio_project}"))
        control = _control(book, studio.label_config)
        with self._pushing:
            version = self.version(project_key)
            tasks = book.unlabeled()
            choices = self._suggest(project, control, set(tasks.values()))
            ranked = self.ranker.rank(project_key, RankQuery(self.strategy, FIRST))[1]
            scores = _scores(choices, [image.image_id for image in ranked])
            rows = [
                {
                    "task": task,
                    "model_version": version,
                    "score": scores.get(image),
                    "result": control.result(choices[image].label if image in choices else None),
                }
                for task, image in tasks.items()
            ]
            self._replace_predictions(studio_project, rows, version)
            book.remember(choices=control.from_name, pushed=version)
        return Pushed(version, len(rows))

    def sync(self, project_key: str, studio_project: int) -> Synced:
        """Take in what happened in Label Studio while this service was away, and push.

        Raises:
            AddressRefused: as for `push`.
            AddressUnreachable: as for `push`.
        """
        project, book = self._open(project_key, studio_project)
        studio = StudioProject(**self.host.call("GET", f"/api/projects/{studio_project}"))
        control = _control(book, studio.label_config)
        task_ids, annotation_ids = set[int](), set[int]()
        for task in self.host.pages("/api/tasks", project=studio_project, fields="all"):
            annotations = [StudioAnnotation(**row) for row in task.get("annotations", ())]
            task_ids.add(task["id"])
            annotation_ids.update(annotation.id for annotation in annotations)
            by_task = [(annotation, task["id"]) for annotation in annotations]
            self._take(project, book, control, [StudioTask(**task)], by_task)
        lost_tasks, lost_annotations = book.vanished(task_ids, annotation_ids)
        self._take_back(project, book, lost_annotations)
        book.forget(lost_tasks)
        pushed = self.push(project_key, studio_project)
        return Synced(pushed.version, len(task_ids), len(annotation_ids))

    def handle(self, project_key: str, event: StudioEvent) -> None:
        """Do what an event asks for; push when that has made the suggestions old."""
        if (studio := event.project) is None:
            return
        project, book = self._open(project_key, studio.id)
        match event.action:
            case "ANNOTATION_CREATED" | "ANNOTATION_UPDATED" | "ANNOTATIONS_CREATED":
                control = _control(book, studio.label_config)
                self._take(project, book, control, event.task, event.by_task())
            case "ANNOTATIONS_DELETED":
                self._take_back(project, book, [annotation.id for annotation in event.annotations])
            case "TASKS_CREATED":
                control = _control(book, studio.label_config)
                self._images(project, book, control, event.tasks)
            case "TASKS_DELETED":
                book.forget([task.id for task in event.tasks])
            case "PROJECT_UPDATED":
                control = _control(book, studio.label_config)
                self._make_labels(project, control.choices)
        state = book.project()
        if state and state.pushed and state.pushed != self.version(project_key):
            self.push(project_key, studio.id)

    def _open(self, project_key: str, studio_project: int) -> tuple[Project, Book]:
        with self.db.reading() as session:
            project = find_project(session, project_key)
        return project, Book(self.db, project.id, studio_project)

    def _make_labels(self, project: Project, names: Iterable[str]) -> None:
        with self.db.reading() as session:
            old = set(label_names(session, project.id).values())
        for name in names:
            if name not in old:
                with suppress(AlreadyExists):  # in the meantime
                    self.labels.create(str(project.id), name)

    def _images(
        self, project: Project, book: Book, control: Control, tasks: Sequence[StudioTask]
    ) -> dict[int, UUID]:
        """The image of each task; of those that are new, if they can be fetched."""
        images = book.images({task.id for task in tasks})
        new = {task.id: task for task in tasks if task.id not in images}
        if not new:
            return images
        named = {number: id_ for number, task in new.items() if (id_ := _named(task, control))}
        ours = book.present(named.values())
        added = {number: image for number, image in named.items() if image in ours}
        added |= self._upload(project, control, [new[n] for n in new if n not in added])
        book.add(added)
        return images | added

    def _upload(
        self, project: Project, control: Control, tasks: Sequence[StudioTask]
    ) -> dict[int, UUID]:
        """Put the images of tasks into the pool, as far as they can be fetched."""
        if not tasks:
            return {}
        with ThreadPoolExecutor(FETCHING_THREADS) as threads:
            files = threads.map(lambda task: self._fetch(task, control), tasks)
            added = self.uploads.add(str(project.id), files)
        for failed in added.failed:
            number, reason = tasks[failed.position].id, failed.problem.detail
            log.warning("image of a task not read", task=number, reason=reason)
        return {tasks[stored.position].id: stored.image_id for stored in added.stored}

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

    def _suggest(
        self, project: Project, control: Control, images: set[UUID]
    ) -> dict[UUID, SuggestedChoice]:
        """The likeliest of the labels that Label Studio offers, for images of the project."""
        try:
            predictor = self.predictors.fitted(project)
        except TooFewLabels:
            return {}
        allowed = [n for n, name in enumerate(predictor.names) if name in control.choices]
        if not allowed:
            return {}
        version, choices = self.version(str(project.id)), {}
        for vectors in self._vectors(project, images):
            queries = torch.from_numpy(np.stack(list(vectors.values()))).float()
            best = predictor.head.probabilities(queries)[:, allowed].max(dim=1)
            for image, n, confidence in zip(
                vectors, best.indices.tolist(), best.values.tolist(), strict=True
            ):
                label = control.choices[predictor.names[allowed[n]]]
                choices[image] = SuggestedChoice(version, label, confidence)
        return choices

    def _vectors(self, project: Project, images: set[UUID]) -> Iterator[dict[UUID, Float16s]]:
        """Embeddings of images, some at a time."""
        for portion in portions(sorted(images)):
            query = select(Embedding.image_id, Embedding.vector).where(
                Embedding.encoder_id == project.encoder_id,
                Embedding.image_id.in_(portion),
            )
            with self.db.reading() as session:
                vectors = {row[0]: row[1] for row in session.execute(query)}
            if vectors:
                yield vectors

    def _replace_predictions(
        self, studio_project: int, rows: Sequence[dict[str, Any]], version: str
    ) -> None:
        """Bring the new before the old go, so that no task is handed out without one.

        Label Studio sorts tasks with several predictions by their mean score, so the old have
        to go.
        """
        path = f"/api/projects/{studio_project}"
        versions = f"{path}/model-versions/"
        old = set(self.host.call("GET", versions))  # the number of predictions by version
        if version in old:  # pushed before, or asked for by Label Studio already
            self.host.call("DELETE", versions, json={"model_version": version})
        for portion in portions(rows, ROWS_PER_CALL):
            self.host.call("POST", f"{path}/import/predictions", json=portion)
        if rows:
            # It takes no version of which it has no prediction, and samples at random without.
            self.host.call("PATCH", path, json={"model_version": version})
        for outdated in sorted(old - {version, ""}):
            self.host.call("DELETE", versions, json={"model_version": outdated})

    def _take(
        self,
        project: Project,
        book: Book,
        control: Control,
        tasks: Sequence[StudioTask],
        annotations: Sequence[tuple[StudioAnnotation, int]],
    ) -> None:
        """Take in what is said of tasks."""
        self._images(project, book, control, tasks)
        labels = [
            StudioLabel(a.id, task, a.label(control), a.annotator, a.updated_at or now())
            for a, task in annotations
        ]
        self._make_labels(project, sorted({label.label for label in labels if label.label}))
        with self._relabeling:
            book.record(labels)
            self._relabel(project, book, {label.task for label in labels})

    def _take_back(self, project: Project, book: Book, annotations: Sequence[int]) -> None:
        with self._relabeling:
            self._relabel(project, book, book.drop(annotations))

    def _relabel(self, project: Project, book: Book, tasks: set[int]) -> None:
        """Give the images of tasks the label that was said of them last, or none any more."""
        changes = []
        for task, image in book.images(tasks).items():
            last = book.last(task)
            label, annotator = (last.label, last.annotator) if last else (None, None)
            changes.append(Change(image, label, annotator, SOURCE))
        for failed in self.annotations.annotate(str(project.id), changes):
            log.warning("label not set", reason=failed.problem.detail)


def _control(book: Book, config: str) -> Control:
    studio = book.project()
    try:
        return read_config(config, studio.choices if studio else None)
    except InvalidRequest:
        return read_config(config)  # the control was renamed since


def _named(task: StudioTask, control: Control) -> UUID | None:
    """The id of an image that a task's file is named by."""
    match = NAMED.search(str(task.data.get(control.field)))
    return UUID(match[1]) if match else None


def _scores(suggested: Mapping[UUID, SuggestedChoice], first: Sequence[UUID]) -> dict[UUID, float]:
    """The first images have the lowest scores, in order; the others their confidence."""
    scores = {
        image: choice.confidence
        for image, choice in suggested.items()
        if choice.confidence is not None
    }
    lowest = min((scores[image] for image in scores.keys() - set(first)), default=1.0)
    return scores | {image: lowest * n / len(first) for n, image in enumerate(first)}
