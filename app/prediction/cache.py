"""The predictors of projects, fitted again when what they rest on has changed."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple
from uuid import UUID

import numpy as np
import torch
from sqlalchemy import select
from torch import Tensor

from app.prediction.predictor import Predictor, fit_predictor
from app.problems import NoBridge
from app.sql.database import Database
from app.sql.tables import Label, Project
from app.vectors.matrices import GONE, Snapshot, Vectors
from models.embeddings import alignment
from models.embeddings.alignment import Alignment
from models.heads import Head
from models.heads.kinds import heads

FITTED_HEADS_KEPT = 16
BRIDGES_KEPT = 4
BRIDGE_IMAGES = 4096  # that one is fitted to, at most


class _Built(NamedTuple):
    """A bridge, and what it rests on."""

    editions: tuple[int, int]  # of the matrices of both versions
    power: int  # of two, above the number of common images
    bridge: Alignment


class PredictorCache:
    """The heads of projects, fitted again when what they rest on has changed."""

    def __init__(self, db: Database, vectors: Vectors) -> None:
        self._db = db
        self._vectors = vectors
        self._fitted: OrderedDict[Hashable, Predictor] = OrderedDict()
        # By project the latest, and the state of the project that it was looked up for.
        self._latest: OrderedDict[UUID, tuple[Hashable, Predictor]] = OrderedDict()
        self._turns: dict[UUID, threading.Lock] = {}  # by project, to fit its head
        self._bridges: OrderedDict[Hashable, _Built] = OrderedDict()
        self._lock = threading.Lock()

    def fitted(self, project: Project) -> Predictor:
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

    def _as_of_now(self, project: Project) -> Predictor:
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
        head = fit_predictor(options, support, mean.vector if mean else None, names)
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


def _common(one: Snapshot, other: Snapshot) -> tuple[Tensor, Tensor]:
    """Rows of the images that are in both, in the same order."""
    of = []
    for snapshot in (one, other):
        there = np.flatnonzero(snapshot.codes != GONE)
        of.append((there, np.ascontiguousarray(snapshot.ids[there]).view("V16").ravel()))
    (rows, ids), (other_rows, other_ids) = of
    _, mine, theirs = np.intersect1d(ids, other_ids, assume_unique=True, return_indices=True)
    return torch.from_numpy(rows[mine]), torch.from_numpy(other_rows[theirs])
