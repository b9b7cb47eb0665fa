"""Which images may be ranked: what a query asks for, and what is left of a pool by that."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
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
        asks = self.label is not None or self.min_confidence > 0 or self.max_confidence < 1
        return asks or self.balanced

    @property
    def whole(self) -> bool:
        """Whether every image of the pool may be chosen, as the strategy alone would."""
        return self == RankQuery(self.strategy, self.budget)


def row_of(everything: Snapshot, image_id: UUID) -> int | None:
    """The row of an image; ids are in order."""
    low, high, wanted = 0, len(everything.ids), image_id.bytes
    while low < high:
        middle = (low + high) // 2
        if everything.ids[middle].tobytes() < wanted:
            low = middle + 1
        else:
            high = middle
    found = low < len(everything.ids) and everything.ids[low].tobytes() == wanted
    return low if found and everything.codes[low] != GONE else None


def without(everything: Snapshot, rows: Tensor, images: set[UUID]) -> Tensor:
    """Rows of a snapshot but those of some images."""
    places = [row for i in images if (row := row_of(everything, i)) is not None]
    free = torch.ones(len(everything.ids), dtype=torch.bool)
    free[places] = False
    return rows[free[rows]]


def matching_pool(
    pool: Pool,
    everything: Snapshot,
    fitted: Predictor | None,
    wish: RankQuery,
    found: NDArray[np.void] | None,
) -> Pool:
    """What is left of a pool; `found` are the ids of images that may be chosen, if not all."""
    kept = torch.ones(len(pool), dtype=torch.bool)
    if found is not None:
        ids = everything.ids[pool.rows.numpy()].view(ID).squeeze(1)
        kept &= torch.from_numpy(np.isin(ids, found))
    if wish.uploaded_after or wish.uploaded_before:
        uploaded = _milliseconds(everything)[pool.rows.numpy()]
        if wish.uploaded_after:
            kept &= torch.from_numpy(uploaded >= wish.uploaded_after.timestamp() * 1000)
        if wish.uploaded_before:
            kept &= torch.from_numpy(uploaded < wish.uploaded_before.timestamp() * 1000)
    pool = pool.part(kept.nonzero().squeeze(1))
    asks = wish.label is not None or wish.min_confidence > 0 or wish.max_confidence < 1
    if fitted is None or not asks or not len(pool):
        return pool
    confidence = pool.score(lambda p: p.amax(dim=1))
    kept = (confidence >= wish.min_confidence) & (confidence <= wish.max_confidence)
    if wish.label is not None:
        wanted = fitted.names.index(wish.label) if wish.label in fitted.names else -1
        kept &= pool.score(lambda p: p.argmax(dim=1).float()) == wanted
    return pool.part(kept.nonzero().squeeze(1))


def _milliseconds(everything: Snapshot) -> np.ndarray:
    """When each image came: the first 48 bits of its UUIDv7."""
    powers = 256 ** np.arange(5, -1, -1, dtype=np.int64)
    return everything.ids[:, :6].astype(np.int64) @ powers
