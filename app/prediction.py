"""What a project's labels say of an image: its head, fitted to the support as it is now."""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple
from uuid import UUID

import numpy as np
import torch
from jaxtyping import Float
from sqlalchemy import select
from torch import Tensor

from app.db import Database
from app.problems import NoBridge, TooFewLabels, TooFewShots
from app.tables import Label, Project
from app.vectors import GONE, Snapshot, Vectors
from models.embeddings import alignment
from models.embeddings.alignment import Alignment
from models.evaluation.intervals import skill
from models.heads import FittedHead, Head, evenly_spread
from models.heads.kinds import heads
from models.rejection import conformal, open_set

FITTED_HEADS_KEPT = 16
MOST_KEPT = 1 << 22  # numbers of support vectors that a fitted head keeps in float32
BRIDGES_KEPT = 4
BRIDGE_IMAGES = 4096  # that one is fitted to, at most


class Neighbour(NamedTuple):
    """A support image and how close it is."""

    image_id: UUID
    label: str
    cosine: float


class Candidate(NamedTuple):
    """A label that a query may have."""

    label: str
    probability: float
    cosine: float  # to the label's centroid


class Asked(NamedTuple):
    """What to say of each query."""

    top_k: int  # labels, at most
    nearest: int  # support images
    coverage: float | None = None  # of a set of labels; None: no set
    false_rejection: float | None = None  # rate, at which images are unknown; None: not asked


class Answer(NamedTuple):
    """What the labels say of one query."""

    candidates: list[Candidate]  # likeliest first
    nearest: list[Neighbour]
    label_set: list[str] | None  # likeliest first
    unknown_score: float | None
    unknown: bool | None


@dataclass(frozen=True, eq=False)
class ProjectHead:
    """A fitted head and the labels it tells apart."""

    names: list[str]
    head: FittedHead
    support: Snapshot
    rows: Tensor  # (M,) rows of `support` that are labeled
    targets: Tensor  # (M,) indices into `names`

    @cached_property
    def skill(self) -> float | None:
        """Leave-one-out accuracy beyond chance, of 2,048 images at most.

        None while no image can be judged by others with its label.
        """
        rows = evenly_spread(self.targets)
        rows = rows[torch.bincount(self.targets)[self.targets[rows]] > 1]
        if not len(rows):
            return None
        targets = self.targets[rows]
        left = self.head.leave_one_out(self.support.vectors[self.rows[rows]], targets)
        return skill(left.argmax(dim=1) == targets, targets)

    def left_out(self) -> Float[Tensor, "M C"]:
        """Probabilities of each support image by a head that was fitted without it."""
        vectors = self.support.vectors[self.rows]
        return self.head.leave_one_out(vectors, self.targets).softmax(dim=1)

    @cached_property
    def unknowns(self) -> open_set.OpenSetDetector:
        """What tells images of no label; fitted when it is first asked for.

        Raises:
            TooFewShots: no label has two images.
        """
        vectors = self.support.vectors[self.rows]
        try:
            return open_set.fit(vectors, self.targets, len(self.names), self.head.mean)
        except open_set.TooFewToReject as error:
            raise TooFewShots(str(error)) from error

    @cached_property
    def sets(self) -> conformal.PredictionSets:
        """What makes sets of labels; fitted when it is first asked for."""
        return conformal.fit(self.head, self.support.vectors[self.rows], self.targets)

    def rejection(self, false_rejection: float) -> open_set.Rejection:
        """From which score on images are unknown.

        Raises:
            TooFewShots: the labeled images are too few for this rate.
        """
        try:
            return self.unknowns.rejection(false_rejection)
        except open_set.TooFewToReject as error:
            raise TooFewShots(str(error)) from error

    def predict(self, queries: Float[Tensor, "Q D"], asked: Asked) -> Iterator[Answer]:
        """For each query its likeliest labels, and what else was asked for."""
        probabilities = self.head.probabilities(queries)  # (Q, C)
        cosines = self.head.similarities(queries)  # (Q, C)
        best = probabilities.topk(min(asked.top_k, len(self.names)), dim=1)
        sets = self._sets(probabilities, asked.coverage)
        judged = self._unknown(queries, asked.false_rejection)
        near = self._nearest(queries, asked.nearest)
        told = best.indices, best.values, cosines.gather(1, best.indices)
        for q, row in enumerate(zip(*(numbers.tolist() for numbers in told), strict=True)):
            candidates = [Candidate(self.names[c], p, cos) for c, p, cos in zip(*row, strict=True)]
            yield Answer(candidates, near[q], sets[q], *judged[q])

    def _sets(
        self, probabilities: Float[Tensor, "Q C"], coverage: float | None
    ) -> Sequence[list[str] | None]:
        if coverage is None:
            return [None] * len(probabilities)
        contained = self.sets.contains(probabilities, coverage)
        order = probabilities.argsort(dim=1, descending=True, stable=True)
        return [
            [self.names[c] for c in likeliest if members[c]]
            for likeliest, members in zip(order.tolist(), contained.tolist(), strict=True)
        ]

    def _unknown(
        self, queries: Float[Tensor, "Q D"], false_rejection: float | None
    ) -> Sequence[tuple[float, bool] | tuple[None, None]]:
        if false_rejection is None:
            return [(None, None)] * len(queries)
        threshold = self.rejection(false_rejection).threshold
        return [(score, score > threshold) for score in self.unknowns.scores(queries).tolist()]

    def _nearest(self, queries: Float[Tensor, "Q D"], count: int) -> list[list[Neighbour]]:
        if not count:
            return [[] for _ in queries]
        cosines = queries @ self._vectors.T  # (Q, M)
        closest = cosines.topk(min(count, len(self.rows)), dim=1)
        return [
            [
                Neighbour(
                    self.support.image_id(int(self.rows[m])),
                    self.names[int(self.targets[m])],
                    cosine,
                )
                for m, cosine in zip(indices, values, strict=True)
            ]
            for indices, values in zip(
                closest.indices.tolist(), closest.values.tolist(), strict=True
            )
        ]

    @property
    def _vectors(self) -> Float[Tensor, "M D"]:
        """Those of the support images, in float32; kept while they are small."""
        if len(self.rows) * self.support.vectors.shape[1] > MOST_KEPT:
            return self.support.vectors[self.rows].float()
        return self._small_vectors

    @cached_property
    def _small_vectors(self) -> Float[Tensor, "M D"]:
        return self.support.vectors[self.rows].float()


class _Built(NamedTuple):
    """A bridge, and what it rests on."""

    editions: tuple[int, int]  # of the matrices of both versions
    power: int  # of two, above the number of common images
    bridge: Alignment


class ProjectHeads:
    """The heads of projects, fitted again when what they rest on has changed."""

    def __init__(self, db: Database, vectors: Vectors) -> None:
        self._db = db
        self._vectors = vectors
        self._fitted: OrderedDict[Hashable, ProjectHead] = OrderedDict()
        # By project the latest, and the state of the project that it was looked up for.
        self._latest: OrderedDict[UUID, tuple[Hashable, ProjectHead]] = OrderedDict()
        self._turns: dict[UUID, threading.Lock] = {}  # by project, to fit its head
        self._bridges: OrderedDict[Hashable, _Built] = OrderedDict()
        self._lock = threading.Lock()

    def fitted(self, project: Project) -> ProjectHead:
        """The project's head fitted to its support images as they are now.

        Raises:
            TooFewLabels: fewer than two labels have support images.
            ProjectNotFound: the project was deleted since it was looked up.
        """
        state = project.revision, project.encoder_id, repr(project.head)
        with self._lock:
            known = self._latest.get(project.id)
            turn = self._turns.setdefault(project.id, threading.Lock())
        if known is not None and known[0] == state:
            return known[1]
        with turn:  # who waited finds what the one before fitted, if that is still new enough
            head = self._as_of_now(project)
        with self._lock:
            self._latest[project.id] = state, head
            self._latest.move_to_end(project.id)
            while len(self._latest) > FITTED_HEADS_KEPT:
                gone, _ = self._latest.popitem(last=False)
                self._turns.pop(gone, None)
        return head

    def _as_of_now(self, project: Project) -> ProjectHead:
        """Fitted to what is at least as new as the project's revision."""
        options: Head = heads[project.head["name"]](**project.head["options"])
        of = project.id, project.encoder_id
        support = self._vectors.support(*of)
        mean = self._vectors.everything(*of).mean if options.uses_mean else None
        with self._db.reading() as session:
            query = select(Label.id, Label.name).where(Label.project_id == project.id)
            names = {row[0]: row[1] for row in session.execute(query)}
        key = (
            of,
            options,
            support.edition,
            mean.edition if mean else None,
            tuple(sorted(names.items())),
        )
        with self._lock:
            if key in self._fitted:
                self._fitted.move_to_end(key)
                return self._fitted[key]
        head = fit_head(options, support, mean.vector if mean else None, names)
        with self._lock:
            self._fitted[key] = head
            while len(self._fitted) > FITTED_HEADS_KEPT:
                self._fitted.popitem(last=False)
        return head

    def bridge(self, project: Project, version: UUID) -> Alignment:
        """From the embeddings of another encoder version to those of the project's.

        It is fitted to images that both have embedded, and again when there are twice as many.

        Raises:
            NoBridge: these are too few.
        """
        source = self._vectors.everything(project.id, version)
        target = self._vectors.everything(project.id, project.encoder_id)
        key, editions = (project.id, version, project.encoder_id), (source.edition, target.edition)
        with self._lock:
            known = self._bridges.get(key)
        if known is not None and known.editions == editions:
            return known.bridge
        rows, same = _common(source, target)
        power = len(rows).bit_length()
        if known is not None and known.power == power:
            found = known.bridge
        else:
            evenly = torch.linspace(0, len(rows) - 1, min(len(rows), BRIDGE_IMAGES)).long()
            try:
                found = alignment.fit(
                    source.vectors[rows[evenly]].float(), target.vectors[same[evenly]].float()
                )
            except ValueError as error:
                raise NoBridge(
                    f"{error} that version {version} and the project's have both embedded; "
                    "promoting a version embeds all images with it"
                ) from error
        with self._lock:
            self._bridges[key] = _Built(editions, power, found)
            self._bridges.move_to_end(key)
            while len(self._bridges) > BRIDGES_KEPT:
                self._bridges.popitem(last=False)
        return found


def fit_head(
    options: Head, support: Snapshot, mean: Tensor | None, names: dict[UUID, str]
) -> ProjectHead:
    """A head fitted to the labeled images of a snapshot.

    Args:
        mean: (D,), of the project's embeddings; None where the head needs none.
        names: of the project's labels.

    Raises:
        TooFewLabels: fewer than two labels have support images.
    """
    rows = support.rows(labeled=True)
    codes = torch.from_numpy(support.codes)[rows].long()
    present = sorted(
        (names[support.label_ids[code]], code)
        for code in set(codes.tolist())
        if support.label_ids[code] in names
    )
    if len(present) < 2:
        raise TooFewLabels(
            f"{len(present)} label(s) have support images; register some for at least two"
        )
    target_of = torch.full((len(support.label_ids),), -1)
    for target, (_, code) in enumerate(present):
        target_of[code] = target
    targets = target_of[codes]
    rows, targets = rows[targets >= 0], targets[targets >= 0]
    head = options.fit(support.vectors[rows], targets, len(present), mean)
    return ProjectHead([name for name, _ in present], head, support, rows, targets)


def _common(one: Snapshot, other: Snapshot) -> tuple[Tensor, Tensor]:
    """Rows of the images that are in both, in the same order."""
    of = []
    for snapshot in (one, other):
        there = np.flatnonzero(snapshot.codes != GONE)
        of.append((there, np.ascontiguousarray(snapshot.ids[there]).view("V16").ravel()))
    (rows, ids), (other_rows, other_ids) = of
    _, mine, theirs = np.intersect1d(ids, other_ids, assume_unique=True, return_indices=True)
    return torch.from_numpy(rows[mine]), torch.from_numpy(other_rows[theirs])
