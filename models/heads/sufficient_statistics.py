"""Sufficient statistics of a labeled set: what closed-form heads need of it, kept exact."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROWS_PER_BLOCK = 4096


@dataclass(frozen=True)
class Statistics:
    """Counts, sums and second moment, in float64; `add`, `remove` and `relabel` change them.

    Stored embeddings are float16, multiples of 2^-24, so sums are exact and the second moment all
    but exact: what is added and removed again leaves no trace.
    """

    counts: Int[Tensor, " C"]
    sums: Float[Tensor, "C D"]
    moment: Float[Tensor, "D D"]  # the sum of x x' over all classes

    @classmethod
    def empty(cls, classes: int, dim: int) -> "Statistics":
        """Of no embeddings at all."""
        float64 = torch.float64
        return cls(
            torch.zeros(classes, dtype=torch.int64),
            torch.zeros(classes, dim, dtype=float64),
            torch.zeros(dim, dim, dtype=float64),
        )

    @classmethod
    def of(
        cls, embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"], classes: int
    ) -> "Statistics":
        """Of a labeled set."""
        statistics = cls.empty(classes, embeddings.shape[1])
        for rows in torch.split(torch.arange(len(targets)), ROWS_PER_BLOCK):
            statistics.add(embeddings[rows], targets[rows])
        return statistics

    def add(self, embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"]) -> None:
        """Count embeddings in."""
        self._change(embeddings, targets, 1)

    def remove(self, embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"]) -> None:
        """Count embeddings out that were counted in before.

        Raises:
            ValueError: a class has fewer embeddings than are to be removed.
        """
        leaving = torch.bincount(targets, minlength=len(self.counts))
        if bool((leaving > self.counts).any()):
            raise ValueError(f"{leaving.tolist()} cannot be removed of {self.counts.tolist()}")
        self._change(embeddings, targets, -1)

    def relabel(
        self,
        embeddings: Float[Tensor, "M D"],
        before: Int[Tensor, " M"],
        after: Int[Tensor, " M"],
    ) -> None:
        """Move embeddings to other classes; the second moment stays as it is."""
        values = embeddings.double()
        for targets, sign in ((before, -1), (after, 1)):
            self.counts.index_add_(0, targets, torch.full_like(targets, sign))
            self.sums.index_add_(0, targets, sign * values)

    @property
    def means(self) -> Float[Tensor, "C D"]:
        """The mean of each class; NaN for one without embeddings."""
        return self.sums / self.counts[:, None]

    @property
    def within(self) -> Float[Tensor, "D D"]:
        """Pooled within-class scatter: the sum of (x - mean of its class)(x - mean)'."""
        rooted = self.sums / self.counts.clamp_min(1).double().sqrt()[:, None]
        return self.moment - rooted.T @ rooted

    def _change(
        self, embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"], sign: int
    ) -> None:
        values = embeddings.double()
        self.counts.index_add_(0, targets, torch.full_like(targets, sign))
        self.sums.index_add_(0, targets, sign * values)
        self.moment.addmm_(values.T, values, alpha=sign)
