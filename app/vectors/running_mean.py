"""The mean embedding of a project's images, which heads take off before they compare."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float16
from numpy.typing import NDArray
from torch import Tensor

GROWTH = 10  # parts of the images, of which the newest one is left out at most
ROWS_PER_BLOCK = 4096


class Mean(NamedTuple):
    """A mean embedding."""

    edition: int  # of no other mean
    vector: Tensor  # (D,), float32


class RunningMean:
    """The mean of the oldest images, which follows a matrix that grows and loses rows.

    Stored embeddings are float16, so that their float64 sum is exact: it does not depend on the
    order in which images came and went, and is the same after a restart.
    """

    def __init__(self, dim: int, editions: Iterator[int]) -> None:
        self._editions = editions
        self._edition = next(editions)
        self._members = np.zeros(0, np.bool_)
        self._total = torch.zeros(dim, dtype=torch.float64)

    def follow(self, vectors: Float16[Tensor, "N D"], present: NDArray[np.bool_]) -> Mean:
        """Take in rows that came, and out those that went.

        Args:
            vectors: in the order in which images came; rows stay what they are.
            present: (N,), which still belong to an image.
        """
        before, self._members = self._members, oldest(present)
        before = np.pad(before, (0, len(present) - len(before)))
        for rows, sign in ((self._members & ~before, 1), (before & ~self._members, -1)):
            for block in torch.split(torch.from_numpy(np.flatnonzero(rows)), ROWS_PER_BLOCK):
                self._total += sign * vectors[block].double().sum(dim=0)
        if not np.array_equal(before, self._members):
            self._edition = next(self._editions)
        return Mean(self._edition, (self._total / max(1, self._members.sum())).float())


def oldest(present: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which images make the mean: all, or all but the newest tenth at most.

    So a mean moves, and heads are fitted anew, only when the images have grown by a tenth; and it
    is told by the images alone.
    """
    rows = np.flatnonzero(present)
    mask = present.copy()
    mask[rows[_landmark(len(rows)) :]] = False
    return mask


def _landmark(count: int) -> int:
    """The last of 1, 2, ... 20, 22, 24, ... that is not above a number; each a tenth further."""
    mark = 0
    while (further := mark + max(1, mark // GROWTH)) <= count:
        mark = further
    return mark
