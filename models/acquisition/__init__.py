"""Acquisition strategies: which unlabeled images to label next."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.registry import Registry

BLOCK_ROWS = 4096  # rows upcast at a time: the block stays in the processor's cache


@dataclass(frozen=True)
class Pool:
    """What a strategy may look at."""

    embeddings: Float[Tensor, "M D"]  # of all images, float16 or float32
    rows: Int[Tensor, " N"]  # which of them are unlabeled
    # From float32 embeddings (B, D) to class probabilities (B, C); None without two classes.
    probabilities: Callable[[Tensor], Tensor] | None

    def __len__(self) -> int:
        return len(self.rows)

    def score(self, uncertainty: Callable[[Tensor], Tensor]) -> Float[Tensor, " N"]:
        """Apply a function of class probabilities, (B, C) to (B,), to the pool block by block.

        Raises:
            ValueError: there are fewer than two classes.
        """
        if self.probabilities is None:
            raise ValueError("this strategy needs at least two classes with support")
        return torch.cat(
            [
                uncertainty(self.probabilities(self.embeddings[block].float()))
                for block in torch.split(self.rows, BLOCK_ROWS)
            ]
        )


class Ranking(NamedTuple):
    """The chosen images, most useful first, and how useful each is."""

    indices: Int[Tensor, " K"]  # into the pool, from 0 to N - 1
    scores: Float[Tensor, " K"]


@runtime_checkable
class AcquisitionStrategy(Protocol):
    """The options of one strategy; `rank` picks at most `budget` images."""

    needs_classes: ClassVar[bool]

    def rank(self, pool: Pool, budget: int) -> Ranking: ...


strategies: Registry[type[AcquisitionStrategy]] = Registry(__name__)


def top(scores: Float[Tensor, " N"], budget: int) -> Ranking:
    """Rank images that can be scored one by one; ties keep pool order."""
    if budget >= len(scores):
        order = scores.argsort(descending=True, stable=True)
        return Ranking(order, scores[order])
    worst = scores.topk(budget).values[-1]
    above = (scores > worst).nonzero().squeeze(1)  # fewer than the budget
    tied = (scores == worst).nonzero().squeeze(1)[: budget - len(above)]
    chosen = torch.cat([above, tied])
    order = chosen[scores[chosen].argsort(descending=True, stable=True)]
    return Ranking(order, scores[order])


def doubt(probabilities: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """1 - the largest probability, as the sum of the others.

    The difference would round to 0 for all images that are nearly certain, and so lose their order.
    """
    return probabilities.scatter(1, probabilities.argmax(dim=1, keepdim=True), 0).sum(dim=1)
