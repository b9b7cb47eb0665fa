"""A project's head, fitted to its support, and what it says of queries."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple
from uuid import UUID

import torch
from jaxtyping import Float
from torch import Tensor

from app.problems import TooFewLabels, TooFewShots
from app.vectors.matrices import Snapshot
from models.evaluation.intervals import skill
from models.heads import FittedHead, Head, evenly_spread
from models.rejection import conformal, open_set

MOST_NUMBERS = 1 << 22  # of support vectors that a predictor keeps in float32


class Neighbour(NamedTuple):
    """A support image and how close it is."""

    image_id: UUID
    label: str
    cosine: float


class LabelCandidate(NamedTuple):
    """A label that a query may have."""

    label: str
    probability: float
    cosine: float  # to the label's centroid


class ClassifyOptions(NamedTuple):
    """What to say of each query."""

    top_k: int  # labels, at most
    nearest: int  # support images
    coverage: float | None = None  # of a set of labels; None: no set
    false_rejection: float | None = None  # rate, at which images are unknown; None: not asked


class QueryPrediction(NamedTuple):
    """What the labels say of one query."""

    candidates: list[LabelCandidate]  # likeliest first
    nearest: list[Neighbour]
    label_set: list[str] | None  # likeliest first
    unknown_score: float | None
    unknown: bool | None


@dataclass(frozen=True, eq=False)
class Predictor:
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
        logits = self.head.leave_one_out(self.support.vectors[self.rows[rows]], targets)
        return skill(logits.argmax(dim=1) == targets, targets)

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

    def predict(
        self, queries: Float[Tensor, "Q D"], options: ClassifyOptions
    ) -> Iterator[QueryPrediction]:
        """For each query its likeliest labels, and what else the options ask for."""
        probabilities = self.head.probabilities(queries)  # (Q, C)
        cosines = self.head.similarities(queries)  # (Q, C)
        best = probabilities.topk(min(options.top_k, len(self.names)), dim=1)
        sets = self._sets(probabilities, options.coverage)
        novelty = self._unknown(queries, options.false_rejection)
        neighbours = self._nearest(queries, options.nearest)
        columns = best.indices, best.values, cosines.gather(1, best.indices)
        for q, row in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
            candidates = [
                LabelCandidate(self.names[c], p, cos) for c, p, cos in zip(*row, strict=True)
            ]
            yield QueryPrediction(candidates, neighbours[q], sets[q], *novelty[q])

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
        if len(self.rows) * self.support.vectors.shape[1] > MOST_NUMBERS:
            return self.support.vectors[self.rows].float()
        return self._small_vectors

    @cached_property
    def _small_vectors(self) -> Float[Tensor, "M D"]:
        return self.support.vectors[self.rows].float()


def fit_predictor(
    options: Head, support: Snapshot, mean: Tensor | None, names: dict[UUID, str]
) -> Predictor:
    """A predictor whose head is fitted to the labeled images of a snapshot.

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
    return Predictor([name for name, _ in present], head, support, rows, targets)
