"""Which images may be ranked: what a query asks for, and what is left of a pool by that."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.prediction.predictor import Predictor
from app.vectors.matrices import GONE, Snapshot
from models.acquisition import AcquisitionStrategy, Pool

ID = np.dtype("V16")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


class RankQuery(NamedTuple):
    """What to rank by, and which images to leave out."""

    strategy: AcquisitionStrategy
    budget: int
    label: str | None = None  # only images of which this label is the likeliest
    min_confidence: float = 0.0  # of the likeliest label
    max_confidence: float = 1.0
    uploaded_after: datetime | None = None
    uploaded_before: datetime | None = None
    metadata: Mapping[str, str | Sequence[str]] | None = None
    filename: str | None = None  # a part of it
    images: Collection[UUID] | None = None  # only these
    max_cosine: float | None = None
    balanced: bool = False

    @property
    def by_prediction(self) -> bool:
        """Whether it asks what the head makes of an image."""
        return self.by_likeliest or self.balanced

    @property
    def by_likeliest(self) -> bool:
        """Whether it asks for a likeliest label, or how sure the head is of it."""
        return self.label is not None or self.min_confidence > 0 or self.max_confidence < 1

    @property
    def whole(self) -> bool:
        """Whether every image of the pool may be chosen, as the strategy alone would."""
        return self == RankQuery(self.strategy, self.budget)


def row_of(snapshot: Snapshot, image_id: UUID) -> int | None:
    """The row of an image; ids are in order."""
    low, high, packed = 0, len(snapshot.ids), image_id.bytes
    while low < high:
        middle = (low + high) // 2
        if snapshot.ids[middle].tobytes() < packed:
            low = middle + 1
        else:
            high = middle
    present = low < len(snapshot.ids) and snapshot.ids[low].tobytes() == packed
    return low if present and snapshot.codes[low] != GONE else None


def rows_of(snapshot: Snapshot, images: Collection[UUID]) -> list[int]:
    """The rows of images, as far as they have one."""
    return [row for i in images if (row := row_of(snapshot, i)) is not None]


def without(snapshot: Snapshot, rows: Tensor, images: set[UUID]) -> Tensor:
    """Rows of a snapshot but those of some images."""
    free = torch.ones(len(snapshot.ids), dtype=torch.bool)
    free[rows_of(snapshot, images)] = False
    return rows[free[rows]]


def matching_pool(
    pool: Pool,
    snapshot: Snapshot,
    predictor: Predictor | None,
    query: RankQuery,
    candidates: NDArray[np.void] | None,
) -> Pool:
    """What is left of a pool by a query.

    Args:
        candidates: ids of the images that may be chosen; None: all.
    """
    mask = torch.ones(len(pool), dtype=torch.bool)
    if candidates is not None:
        ids = snapshot.ids[pool.rows.numpy()].view(ID).squeeze(1)
        mask &= torch.from_numpy(np.isin(ids, candidates))
    if query.uploaded_after or query.uploaded_before:
        uploaded = _milliseconds(snapshot)[pool.rows.numpy()]
        if query.uploaded_after:
            mask &= torch.from_numpy(uploaded >= (query.uploaded_after - EPOCH) / MILLISECOND)
        if query.uploaded_before:
            mask &= torch.from_numpy(uploaded < (query.uploaded_before - EPOCH) / MILLISECOND)
    pool = pool.part(mask.nonzero().squeeze(1))
    if predictor is None or not query.by_likeliest or not len(pool):
        return pool
    return _predicted(pool, predictor, query)


def _predicted(pool: Pool, predictor: Predictor, query: RankQuery) -> Pool:
    """The images whose likeliest label, and its probability, are what a query asks for."""
    confidence = pool.score(lambda p: p.amax(dim=1))
    mask = (confidence >= query.min_confidence) & (confidence <= query.max_confidence)
    if query.label is not None:
        target = predictor.names.index(query.label) if query.label in predictor.names else -1
        mask &= pool.score(lambda p: p.argmax(dim=1).float()) == target
    return pool.part(mask.nonzero().squeeze(1))


def _milliseconds(snapshot: Snapshot) -> np.ndarray:
    """When each image came: the first 48 bits of its UUIDv7."""
    powers = 256 ** np.arange(5, -1, -1, dtype=np.int64)
    return snapshot.ids[:, :6].astype(np.int64) @ powers
