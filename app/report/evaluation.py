"""Use case: how heads and encoder versions do on episodes of a project's labeled images."""

import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.problems import InvalidRequest, LabelNotFound, LabelsDoNotSuffice, NotEmbedded, Overloaded
from app.report.learned_images import count_learned_images
from app.sql.database import Database
from app.sql.head_choices import choices_by_version
from app.sql.lookups import find_project, find_version, parse_id
from app.vectors.matrices import Revision, Snapshot, Vectors
from models.heads import Head
from models.metalearning.episodes import Range, TooFewForEpisodes
from models.metalearning.evaluation import EpisodicEvaluation, ShotFigures
from models.metalearning.evaluation.answers import EpisodeModel
from models.metalearning.intervals import FEW_LABELS
from models.registry import plugin_name

AT_ONCE = 2  # evaluations; one more is told to come again
MOST_FEATURES = 2000  # random ones of a head: more cost seconds and hundreds of MB an episode
MOST_NAMED = 100  # labels with too few images that a problem names


class EvaluationQuery(NamedTuple):
    """What to evaluate, and on which episodes."""

    heads: Sequence[dict[str, Any]]  # their names and options; none: the project's
    versions: Sequence[UUID]  # none: the one that serves
    labels: Sequence[str] | None  # names or ids; None: all
    ways: Range
    shots: Sequence[int]
    queries: int
    episodes: int
    seed: int
    seconds: float


class EvaluatedModel(NamedTuple):
    """A head on the embeddings of a version."""

    encoder_id: UUID
    head: dict[str, Any]
    learned_images: int  # labeled images that either learned from


class Evaluated(NamedTuple):
    """What came out, so far as time sufficed."""

    models: list[EvaluatedModel]
    names: list[str]  # of all labels, by the numbers that figures have
    labels: list[int]  # that episodes were drawn from
    left_out: dict[str, int]  # labels with too few images, and how many these are
    images: int
    done: int
    shots: list[ShotFigures]
    missing: list[str]


class _Images(NamedTuple):
    """The labeled images that all versions have embedded, in the order of their ids."""

    names: list[str]  # of all labels of the project, in order
    label_ids: list[UUID]
    targets: Tensor  # (M,) which of them
    rows: list[Tensor]  # (M,) of each version's support
    labeled: list[int]  # images that each version has embedded


@dataclass(frozen=True)
class Evaluations:
    """Judges what is there by what is stored, and changes nothing."""

    db: Database
    vectors: Vectors
    build_head: Callable[[Mapping[str, Any]], Head]
    clock: Callable[[], float] = time.monotonic
    _turns: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(AT_ONCE))

    def evaluate(
        self, project_key: str, query: EvaluationQuery, stopping: Callable[[], bool]
    ) -> Evaluated:
        """Draw episodes from the labeled images until all are done, or the seconds are over.

        Args:
            stopping: whether the service stops, and whoever waits shall have what there is.

        Raises:
            LabelsDoNotSuffice: labels are too few, or have too few images.
            NotEmbedded: a version has embedded no labeled image.
            HeadMismatch: a learned head fits none of the versions.
            Overloaded: as many evaluations run as may at the same time.
        """
        if not self._turns.acquire(blocking=False):
            raise Overloaded(
                f"{AT_ONCE} evaluations are running; ask again when one has ended",
                retry_after=max(1, round(query.seconds)),
            )
        try:
            return self._evaluate(project_key, query, stopping)
        finally:
            self._turns.release()

    def _evaluate(
        self, project_key: str, query: EvaluationQuery, stopping: Callable[[], bool]
    ) -> Evaluated:
        with self.db.reading() as session:
            project = find_project(session, project_key)
            versions = [find_version(session, project, v).id for v in query.versions]
            versions = versions or [project.encoder_id]
            choices = choices_by_version(session, project, query.heads, versions)
            learned = [
                [count_learned_images(session, project.id, version, choice) for choice in part]
                for version, part in zip(versions, choices, strict=True)
            ]
        heads = [[self.build_head(choice) for choice in part] for part in choices]
        every_head = [head for part in heads for head in part]
        _require_small(every_head)
        needs_mean = any(head.uses_mean for head in every_head)
        revisions = [
            self.vectors.at_once(project.id, version, everything=needs_mean) for version in versions
        ]
        images = _common_images(versions, revisions)
        models, judged = [], []
        for n, (version, revision, rows) in enumerate(
            zip(versions, revisions, images.rows, strict=True)
        ):
            everything = revision.everything.mean
            mean = everything.vector if everything else None
            for choice, head, count in zip(choices[n], heads[n], learned[n], strict=True):
                models.append(EvaluatedModel(version, choice, count))
                judged.append(EpisodeModel(head, revision.support.vectors, mean, rows))
        deadline = self.clock() + query.seconds
        work = _prepare(judged, images, query)
        for _ in work.steps():
            if self.clock() > deadline or stopping():
                break
        counts = torch.bincount(images.targets, minlength=len(images.names)).tolist()
        figures = work.figures()
        return Evaluated(
            models,
            images.names,
            work.labels,
            {images.names[label]: counts[label] for label in work.left_out},
            sum(counts[label] for label in work.labels),
            work.done,
            figures,
            list(_missing(work, figures, images, query)),
        )


def _require_small(heads: Sequence[Head]) -> None:
    for head in heads:
        features = getattr(head, "features", 0)
        if features > MOST_FEATURES:
            raise InvalidRequest(
                f"head {plugin_name(head)!r} has {features} random features, and is fitted anew "
                f"for each episode: name heads with at most {MOST_FEATURES}"
            )


def _common_images(versions: Sequence[UUID], revisions: Sequence[Revision]) -> _Images:
    """The labeled images that all versions have embedded, with the labels of the first revision.

    Raises:
        NotEmbedded: there are none, though there are labeled images.
    """
    rows = [revision.support.rows(labeled=True).numpy() for revision in revisions]
    ids = [_ids(revision.support, part) for revision, part in zip(revisions, rows, strict=True)]
    common = ids[0]
    for other in ids[1:]:
        common = np.intersect1d(common, other, assume_unique=True)
    most = max(map(len, ids))
    for version, part in zip(versions, ids, strict=True):
        if most and not len(part):
            raise NotEmbedded(
                f"version {version} has embedded none of {most} labeled images, so that all are "
                "missing; promoting a version embeds all images with it",
                missing=most,
            )
    common = np.sort(common)
    rows = [
        part[order := np.argsort(own)][np.searchsorted(own[order], common)]
        for part, own in zip(rows, ids, strict=True)
    ]
    first = revisions[0]
    ordered = sorted(first.names.items(), key=lambda label: label[1])
    place = {label_id: n for n, (label_id, _) in enumerate(ordered)}
    target_of = np.array([place.get(label, -1) for label in first.support.label_ids], np.int64)
    targets = target_of[first.support.codes[rows[0]]] if len(common) else np.empty(0, np.int64)
    return _Images(
        [name for _, name in ordered],
        [label_id for label_id, _ in ordered],
        torch.from_numpy(targets),
        [torch.from_numpy(part) for part in rows],
        [len(part) for part in ids],
    )


def _ids(snapshot: Snapshot, rows: NDArray[np.int64]) -> NDArray[np.void]:
    """The image ids of rows, to be compared as a whole."""
    ids: NDArray[np.void] = np.ascontiguousarray(snapshot.ids[rows]).view("S16").ravel()
    return ids


def _prepare(
    models: list[EpisodeModel], images: _Images, query: EvaluationQuery
) -> EpisodicEvaluation:
    """The episodes, drawn from the labels that were asked for.

    Raises:
        LabelNotFound: a label is not there.
        LabelsDoNotSuffice: labels are too few, or have too few images.
    """
    labels: Sequence[int] = range(len(images.names))
    if query.labels is not None:
        labels = [_find(images, key) for key in query.labels]
    try:
        return EpisodicEvaluation(
            models,
            images.targets,
            labels,
            ways=query.ways,
            shots=query.shots,
            queries=query.queries,
            count=query.episodes,
            seed=query.seed,
        )
    except TooFewForEpisodes as error:
        needed = max(query.shots) + query.queries
        counts = torch.bincount(images.targets, minlength=len(images.names)).tolist()
        short = [n for n in labels if counts[n] < needed]
        raise LabelsDoNotSuffice(
            f"{error}: {error.missing} more; label images, or ask for fewer ways, shots or queries",
            missing=error.missing,
            left_out=[
                {"label": images.names[n], "images": counts[n], "missing": needed - counts[n]}
                for n in short[:MOST_NAMED]
            ],
        ) from error


def _find(images: _Images, key: str) -> int:
    """The number of a label, by name or id."""
    label_id, name = parse_id(key), unicodedata.normalize("NFC", key).strip()
    if label_id in images.label_ids:
        return images.label_ids.index(label_id)
    if name in images.names:
        return images.names.index(name)
    raise LabelNotFound(f"the project has no label {key!r}; GET …/labels lists them")


def _missing(
    work: EpisodicEvaluation, figures: list[ShotFigures], images: _Images, query: EvaluationQuery
) -> Iterator[str]:
    """Why figures are null, and why images do not count."""
    if (fewest := min(images.labeled)) < max(images.labeled):
        yield (
            f"{max(images.labeled)} labeled images are there, of which a version has embedded "
            f"{fewest}: only the {len(images.targets)} that all versions have embedded count"
        )
    if work.done < query.episodes:
        yield (
            f"{work.done} of {query.episodes} episodes were done in {query.seconds:g} s: ask for "
            "more seconds, fewer heads, versions or shots, or smaller episodes"
        )
    counts = torch.bincount(images.targets, minlength=len(images.names)).tolist()
    for part in figures:
        if part.separate_episodes < 2:
            scarce = min(work.labels, key=lambda label: counts[label])
            yield (
                f"with {part.shots} shots, {part.separate_episodes} episodes that share no image "
                f"were done, and over_images needs two: label {images.names[scarce]!r} has "
                f"{counts[scarce]} images, and labels count alike"
            )
    if len(work.labels) < FEW_LABELS and all(
        model.over_labels is None for part in figures for model in part.models
    ):
        yield (
            f"over_labels needs episodes without each of the {len(work.labels)} labels: ask for "
            "fewer ways, or more episodes"
        )
