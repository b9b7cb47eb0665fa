"""Cosines of a project's images to its centroids: what is left of the last ranking for the next.

A cache of what can be computed from the embeddings again, in memory only.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from app.vectors.matrices import Snapshot
from models.acquisition import Ranking
from models.acquisition.bounds import RememberedCosines, has_bounds, remember
from models.heads import FittedHead

MOST_COSINES = 1 << 26  # of all projects together: 256 MB
Shortcut = Callable[[Tensor, Callable[[Tensor], Tensor], float, int], Ranking]


class _Memory(NamedTuple):
    ids: NDArray[np.uint8]  # (M, 16), of the images, in the order of the cosines
    cosines: RememberedCosines


class Cosines:
    """What is remembered of each project and encoder version, within a limit."""

    def __init__(self, most: int = MOST_COSINES) -> None:
        self._most = most
        self._memories: OrderedDict[tuple[UUID, UUID], _Memory] = OrderedDict()
        self._lock = threading.Lock()

    def shortcut(
        self, key: tuple[UUID, UUID], snapshot: Snapshot, head: FittedHead
    ) -> Shortcut | None:
        """A way to the best images that looks at few of them; None where there is none.

        Only of the cosine head is it known how far a label can move a score. More cosines than the
        limit are not remembered either.
        """
        if not has_bounds(head) or len(snapshot.vectors) * len(head.centroids) > self._most:
            return None
        return partial(self._best, key, snapshot, head)

    def _best(
        self,
        key: tuple[UUID, UUID],
        snapshot: Snapshot,
        head: FittedHead,
        rows: Tensor,
        uncertainty: Callable[[Tensor], Tensor],
        slope: float,
        budget: int,
    ) -> Ranking:
        remembered = self._remember(key, snapshot, head)
        return remembered.best(head, snapshot.vectors, rows, uncertainty, slope, budget)

    def _remember(
        self, key: tuple[UUID, UUID], snapshot: Snapshot, head: FittedHead
    ) -> RememberedCosines:
        with self._lock:
            memory = self._memories.get(key)
        # Rows are numbered anew when the matrix was read again.
        if memory and not np.array_equal(memory.ids, snapshot.ids[: len(memory.ids)]):
            memory = None
        cosines = remember(head, snapshot.vectors, memory.cosines if memory else None)
        with self._lock:
            self._memories[key] = _Memory(snapshot.ids, cosines)
            self._memories.move_to_end(key)
            used = sum(memory.cosines.cosines.numel() for memory in self._memories.values())
            while used > self._most and len(self._memories) > 1:
                used -= self._memories.popitem(last=False)[1].cosines.cosines.numel()
        return cosines
