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

from app.integrations.label_studio.book import Book, Said
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
from app.sql.database import Database
from app.sql.lookups import find_project, portions
from app.sql.tables import Embedding, Float16s, Label, Project, now
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
    """A project as a machine learning backend, wired once in `app.main`."""

    db: Database
    uploads: Uploads
    annotations: Annotations
    predictors: PredictorCache
    projects: Projects
    labels: Labels
    ranker: Ranker
    host: Host
    strategy: AcquisitionStrategy  # of what is handed out first
    _settling: threading.Lock = field(default_factory=threading.Lock)
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
        wanted = extra.get("choices")
        control = read_config(config, str(wanted) if wanted else None)
        if token := extra.get("token"):
            self.host.offer(str(token))
        project, book = self._open(project_key, studio_project)
        known = book.project()
        if known is None or known.choices != control.from_name:
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
        found = self._suggested(project, control, set(images.values()))
        nothing = SuggestedChoice(self.version(project_key), None, None)
        return control, [
            found.get(images[task.id], nothing) if task.id in images else nothing for task in tasks
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
            found = self._suggested(project, control, set(tasks.values()))
            ranked = self.ranker.rank(project_key, RankQuery(self.strategy, FIRST))[1]
            scores = _scores(found, [one.image_id for one in ranked])
            rows = [
                {
                    "task": task,
                    "model_version": version,
                    "score": scores.get(image),
                    "result": control.result(found[image].label if image in found else None),
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
        there, said = set[int](), set[int]()
        for task in self.host.pages("/api/tasks", project=studio_project, fields="all"):
            annotations = [StudioAnnotation(**one) for one in task.get("annotations", ())]
            there.add(task["id"])
            said.update(annotation.id for annotation in annotations)
            about = [(annotation, task["id"]) for annotation in annotations]
            self._take(project, book, control, [StudioTask(**task)], about)
        gone, unsaid = book.vanished(there, said)
        self._take_back(project, book, unsaid)
        book.forget(gone)
        pushed = self.push(project_key, studio_project)
        return Synced(pushed.version, len(there), len(said))

    def handle(self, project_key: str, event: StudioEvent) -> None:
        """Do what an event asks for; push when that has made the suggestions old."""
        if (studio := event.project) is None:
            return
        project, book = self._open(project_key, studio.id)
        match event.action:
            case "ANNOTATION_CREATED" | "ANNOTATION_UPDATED" | "ANNOTATIONS_CREATED":
                control = _control(book, studio.label_config)
                self._take(project, book, control, event.task, event.said())
            case "ANNOTATIONS_DELETED":
                self._take_back(project, book, [one.id for one in event.annotations])
            case "TASKS_CREATED":
                control = _control(book, studio.label_config)
                self._images(project, book, control, event.tasks)
            case "TASKS_DELETED":
                book.forget([one.id for one in event.tasks])
            case "PROJECT_UPDATED":
                control = _control(book, studio.label_config)
                self._make_labels(project, control.choices)
        known = book.project()
        if known and known.pushed and known.pushed != self.version(project_key):
            self.push(project_key, studio.id)

    def _open(self, project_key: str, studio_project: int) -> tuple[Project, Book]:
        with self.db.reading() as session:
            project = find_project(session, project_key)
        return project, Book(self.db, project.id, studio_project)

    def _make_labels(self, project: Project, names: Iterable[str]) -> None:
        with self.db.reading() as session:
            known = set(session.scalars(select(Label.name).where(Label.project_id == project.id)))
        for name in names:
            if name not in known:
                with suppress(AlreadyExists):  # in the meantime
                    self.labels.create(str(project.id), name)

    def _images(
        self, project: Project, book: Book, control: Control, tasks: Sequence[StudioTask]
    ) -> dict[int, UUID]:
        """The image of each task; of those that are new, if they can be fetched."""
        known = book.images({task.id for task in tasks})
        new = {task.id: task for task in tasks if task.id not in known}
        if not new:
            return known
        named = {number: id_ for number, task in new.items() if (id_ := _named(task, control))}
        ours = book.present(named.values())
        found = {number: image for number, image in named.items() if image in ours}
        strange = [task for number, task in new.items() if number not in found]
        if strange:
            with ThreadPoolExecutor(FETCHING_THREADS) as threads:
                fetched = threads.map(lambda task: self._fetch(task, control), strange)
                added = self.uploads.add(str(project.id), fetched)
            for failed in added.failed:
                number, reason = strange[failed.position].id, failed.problem.detail
                log.warning("image of a task not read", task=number, reason=reason)
            found |= {strange[one.position].id: one.image_id for one in added.stored}
        book.add(found)
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

    def _suggested(
        self, project: Project, control: Control, images: set[UUID]
    ) -> dict[UUID, SuggestedChoice]:
        """The likeliest of the labels that Label Studio offers, for images of the project."""
        try:
            fitted = self.predictors.fitted(project)
        except TooFewLabels:
            return {}
        allowed = [n for n, name in enumerate(fitted.names) if name in control.choices]
        if not allowed:
            return {}
        version, found = self.version(str(project.id)), {}
        for part in self._vectors(project, images):
            chances = fitted.head.probabilities(
                torch.from_numpy(np.stack(list(part.values()))).float()
            )
            best = chances[:, allowed].max(dim=1)
            for image, n, confidence in zip(
                part, best.indices.tolist(), best.values.tolist(), strict=True
            ):
                label = control.choices[fitted.names[allowed[n]]]
                found[image] = SuggestedChoice(version, label, confidence)
        return found

    def _vectors(self, project: Project, images: set[UUID]) -> Iterator[dict[UUID, Float16s]]:
        """Embeddings of images, some at a time."""
        for some in portions(sorted(images)):
            query = select(Embedding.image_id, Embedding.vector).where(
                Embedding.encoder_id == project.encoder_id,
                Embedding.image_id.in_(some),
            )
            with self.db.reading() as session:
                found = {row[0]: row[1] for row in session.execute(query)}
            if found:
                yield found

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
        for start in range(0, len(rows), ROWS_PER_CALL):
            some = rows[start : start + ROWS_PER_CALL]
            self.host.call("POST", f"{path}/import/predictions", json=some)
        if rows:
            # It takes no version of which it has no prediction, and samples at random without.
            self.host.call("PATCH", path, json={"model_version": version})
        for one in sorted(old - {version, ""}):
            self.host.call("DELETE", versions, json={"model_version": one})

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
        said = [
            Said(one.id, task, one.label(control), one.annotator, one.updated_at or now())
            for one, task in annotations
        ]
        self._make_labels(project, sorted({one.label for one in said if one.label}))
        with self._settling:
            book.keep(said)
            self._settle(project, book, {one.task for one in said})

    def _take_back(self, project: Project, book: Book, annotations: Sequence[int]) -> None:
        with self._settling:
            self._settle(project, book, book.drop(annotations))

    def _settle(self, project: Project, book: Book, tasks: set[int]) -> None:
        """Give the images of tasks the label that was said of them last, or none any more."""
        changes = []
        for task, image in book.images(tasks).items():
            last = book.last(task)
            label, annotator = (last.label, last.annotator) if last else (None, None)
            changes.append(Change(image, label, annotator, SOURCE))
        for failed in self.annotations.annotate(str(project.id), changes):
            log.warning("label not set", reason=failed.problem.detail)


def _control(book: Book, config: str) -> Control:
    known = book.project()
    try:
        return read_config(config, known.choices if known else None)
    except InvalidRequest:
        return read_config(config)  # the control was renamed since


def _named(task: StudioTask, control: Control) -> UUID | None:
    """The id of an image that a task's file is named by."""
    match = NAMED.search(str(task.data.get(control.field)))
    return UUID(match[1]) if match else None


def _scores(suggested: Mapping[UUID, SuggestedChoice], first: Sequence[UUID]) -> dict[UUID, float]:
    """The first images have the lowest scores, in order; the others their confidence."""
    scores = {
        image: one.confidence for image, one in suggested.items() if one.confidence is not None
    }
    others = scores.keys() - set(first)
    lowest = min((scores[image] for image in others), default=1.0)
    return scores | {image: lowest * n / len(first) for n, image in enumerate(first)}
