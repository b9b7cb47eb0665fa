"""What a project's labels say of an image: its head, fitted to the support as it is now."""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import NamedTuple
from uuid import UUID

import torch
from jaxtyping import Float
from sqlalchemy import select
from torch import Tensor

from app.db import Database
from app.problems import TooFewLabels
from app.tables import Label, Project
from app.vectors import Snapshot, Vectors
from models.heads import FittedHead, Head, heads

FITTED_HEADS_KEPT = 16
ROWS_PER_BLOCK = 4096


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


class ProjectHead(NamedTuple):
    """A fitted head and the labels it tells apart."""

    names: list[str]
    head: FittedHead
    support: Snapshot
    rows: Tensor  # (M,) rows of `support` that are labeled
    targets: Tensor  # (M,) indices into `names`

    def predict(
        self, queries: Float[Tensor, "Q D"], top_k: int, nearest: int
    ) -> Iterator[tuple[list[Candidate], list[Neighbour]]]:
        """For each query its likeliest labels, and its nearest support images."""
        probabilities = self.head.probabilities(queries)  # (Q, C)
        cosines = self.head.similarities(queries)  # (Q, C)
        best = probabilities.topk(min(top_k, len(self.names)), dim=1)
        for q, neighbours in enumerate(self._nearest(queries, nearest)):
            candidates = [
                Candidate(self.names[c], p, float(cosines[q, c]))
                for c, p in zip(best.indices[q].tolist(), best.values[q].tolist(), strict=True)
            ]
            yield candidates, neighbours

    def _nearest(self, queries: Float[Tensor, "Q D"], count: int) -> list[list[Neighbour]]:
        if not count:
            return [[] for _ in queries]
        cosines = queries @ self.support.vectors[self.rows].float().T  # (Q, M)
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


class ProjectHeads:
    """The heads of projects, fitted again when what they rest on has changed."""

    def __init__(self, db: Database, vectors: Vectors) -> None:
        self._db = db
        self._vectors = vectors
        self._fitted: OrderedDict[Hashable, ProjectHead] = OrderedDict()
        self._lock = threading.Lock()

    def fitted(self, project: Project) -> ProjectHead:
        """The project's head fitted to its support images as they are now.

        Raises:
            TooFewLabels: fewer than two labels have support images.
            ProjectNotFound: the project was deleted since it was looked up.
        """
        options: Head = heads[project.head["name"]](**project.head["options"])
        of = project.id, project.encoder_id
        support = self._vectors.support(*of)
        everything = self._vectors.everything(*of) if options.uses_mean else None
        with self._db.reading() as session:
            query = select(Label.id, Label.name).where(Label.project_id == project.id)
            names = {row[0]: row[1] for row in session.execute(query)}
        key = (
            of,
            options,
            support.edition,
            everything.edition if everything else None,
            tuple(sorted(names.items())),
        )
        with self._lock:
            if key in self._fitted:
                self._fitted.move_to_end(key)
                return self._fitted[key]
        head = _fit(options, support, everything, names)
        with self._lock:
            self._fitted[key] = head
            while len(self._fitted) > FITTED_HEADS_KEPT:
                self._fitted.popitem(last=False)
        return head


def _fit(
    options: Head, support: Snapshot, everything: Snapshot | None, names: dict[UUID, str]
) -> ProjectHead:
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
    mean = _mean(everything) if everything is not None else None
    head = options.fit(support.vectors[rows], targets, len(present), mean)
    return ProjectHead([name for name, _ in present], head, support, rows, targets)


def _mean(everything: Snapshot) -> Tensor:
    """The mean embedding of all images, float32; its float64 sum is exact."""
    kept = torch.cat([everything.rows(labeled=True), everything.rows(labeled=False)])
    total = torch.zeros(everything.vectors.shape[1], dtype=torch.float64)
    for start in range(0, len(kept), ROWS_PER_BLOCK):
        block = kept[start : start + ROWS_PER_BLOCK]
        total += everything.vectors[block].double().sum(dim=0)
    return (total / len(kept)).float()
