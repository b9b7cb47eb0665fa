"""Predictors of projects, and bridges between versions, fitted again when they are outdated."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import torch
from torch import Tensor

from app.prediction.predictor import Predictor, fit_predictor
from app.problems import NoBridge
from app.sql.database import Database
from app.sql.tables import Project
from app.vectors.matrices import GONE, Revision, Snapshot, Vectors
from models.embeddings import alignment
from models.embeddings.alignment import Alignment
from models.heads import Head

BuildHead = Callable[[Mapping[str, Any]], Head]  # of how a project names it
MOST_PREDICTORS = 16
MOST_BRIDGES = 4
BRIDGE_IMAGES = 4096  # that one is fitted to, at most


class _FittedBridge(NamedTuple):
    """A bridge, and what it rests on."""

    editions: tuple[int, int]  # of the matrices of both versions
    power: int  # of two, above the number of common images
    alignment: Alignment


class PredictorCache:
    """The predictors of projects, fitted again when what they rest on has changed."""

    def __init__(self, db: Database, vectors: Vectors, build_head: BuildHead) -> None:
        self._db = db
        self._build_head = build_head
        self._vectors = vectors
        self._fitted: OrderedDict[Hashable, Predictor] = OrderedDict()
        # By project the latest, and the state of the project that it was looked up for.
        self._latest: OrderedDict[UUID, tuple[Hashable, Predictor]] = OrderedDict()
        self._turns: dict[UUID, threading.Lock] = {}  # by project, to fit its predictor
        self._bridges: OrderedDict[Hashable, _FittedBridge] = OrderedDict()
        self._lock = threading.Lock()

    def fitted(self, project: Project, revision: Revision | None = None) -> Predictor:
        """The project's head fitted to its support images as they are now.

        Args:
            revision: with everything, to fit to what was then.

        Raises:
            TooFewLabels: fewer than two labels have support images.
            ProjectNotFound: the project was deleted since it was looked up.
        """
        number = project.revision if revision is None else revision.number
        state = number, project.encoder_id, repr(project.head)
        with self._lock:
            latest = self._latest.get(project.id)
            turn = self._turns.setdefault(project.id, threading.Lock())
        if revision is None and latest is not None and latest[0] == state:
            return latest[1]
        with turn:  # who waited finds what the one before fitted, if that is still new enough
            predictor = self._fit(project, revision)
        with self._lock:
            self._latest[project.id] = state, predictor
            self._latest.move_to_end(project.id)
            while len(self._latest) > MOST_PREDICTORS:
                oldest, _ = self._latest.popitem(last=False)
                self._turns.pop(oldest, None)
        return predictor

    def _fit(self, project: Project, revision: Revision | None) -> Predictor:
        """Fitted to a revision, or to what is at least as new as the project's."""
        options = self._build_head(project.head)
        of = project.id, project.encoder_id
        if revision is None:
            revision = self._vectors.at_once(*of, everything=options.uses_mean)
        support, names = revision.support, revision.names
        mean = revision.everything.mean if options.uses_mean else None
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
        predictor = fit_predictor(options, support, mean.vector if mean else None, names)
        with self._lock:
            self._fitted[key] = predictor
            while len(self._fitted) > MOST_PREDICTORS:
                self._fitted.popitem(last=False)
        return predictor

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
            old = self._bridges.get(key)
        if old is not None and old.editions == editions:
            return old.alignment
        source_rows, target_rows = _common(source, target)
        count = len(source_rows)
        power = count.bit_length()
        if old is not None and old.power == power:
            bridge = old.alignment
        else:
            evenly = torch.linspace(0, count - 1, min(count, BRIDGE_IMAGES)).long()
            try:
                bridge = alignment.fit(
                    source.vectors[source_rows[evenly]].float(),
                    target.vectors[target_rows[evenly]].float(),
                )
            except ValueError as error:
                raise NoBridge(
                    f"{error} that version {version} and the project's have both embedded; "
                    "promoting a version embeds all images with it"
                ) from error
        with self._lock:
            self._bridges[key] = _FittedBridge(editions, power, bridge)
            self._bridges.move_to_end(key)
            while len(self._bridges) > MOST_BRIDGES:
                self._bridges.popitem(last=False)
        return bridge


def _common(source: Snapshot, target: Snapshot) -> tuple[Tensor, Tensor]:
    """Rows of the images that are in both, in the same order."""
    rows, ids = [], []
    for snapshot in (source, target):
        rows.append(np.flatnonzero(snapshot.codes != GONE))
        ids.append(np.ascontiguousarray(snapshot.ids[rows[-1]]).view("V16").ravel())
    _, first, second = np.intersect1d(ids[0], ids[1], assume_unique=True, return_indices=True)
    return torch.from_numpy(rows[0][first]), torch.from_numpy(rows[1][second])
