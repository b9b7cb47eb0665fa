"""Acquisition strategies: which unlabeled images to label next."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import functional as F

BLOCK_ROWS = 4096  # rows upcast at a time: the block stays in the processor's cache


DENSE = 1.1  # rows between the first and the last of a block, for each of the block


class NoClasses(ValueError):
    """A strategy needs class probabilities, and fewer than two classes have support."""


def _no_rows() -> Int[Tensor, " V"]:
    return torch.empty(0, dtype=torch.long)


@dataclass(frozen=True)
class Pool:
    """What a strategy may look at. Positions count the pool, from 0 to N - 1; rows all images."""

    embeddings: Float[Tensor, "M D"]  # of all images, float16 or float32
    rows: Int[Tensor, " N"]  # which of them are to be ranked: unlabeled ones, as a rule
    # From float32 embeddings (B, D) to class probabilities (B, C); None without two classes.
    probabilities: Callable[[Tensor], Tensor] | None
    labeled: Int[Tensor, " U"] = field(default_factory=_no_rows)  # which of them have a label
    targets: Int[Tensor, " U"] = field(default_factory=_no_rows)  # and which one, 0 to C - 1
    pending: Int[Tensor, " V"] = field(default_factory=_no_rows)  # which will soon have one
    mean: Float[Tensor, " D"] | None = None  # subtracted where images are compared; None: nothing
    names: tuple[str, ...] = ()  # of the classes
    unseen: int = 0  # classes that are known by name and have no image yet
    # Leave-one-out accuracy beyond chance, 0..1; None where it is not known. Computed when asked.
    skill: Callable[[], float | None] | None = None
    # Leave-one-out probabilities (U, C) of the labeled images. Computed when asked.
    left_out: Callable[[], Tensor] | None = None
    # Does what `best` does, from what was computed before the last labels.
    shortcut: Callable[[Tensor, Callable[[Tensor], Tensor], float, int], "Ranking"] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse labels and probabilities of two moments, whose classes are not the same.

        Raises:
            ValueError: there are targets or probabilities of other classes than have names.
        """
        if not self.names:
            return
        count = len(self.names)
        if len(self.targets) and int(self.targets.max()) >= count:
            raise ValueError(f"target {int(self.targets.max())} is none of {count} classes")
        if self.probabilities is not None:
            columns = self.probabilities(self.embeddings[:0].float()).shape[1]
            if columns != count:
                raise ValueError(f"there are probabilities of {columns} classes, not of {count}")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def covered(self) -> Int[Tensor, " V"]:
        """Rows of the images that have a label or will soon have one."""
        return torch.cat([self.labeled, self.pending])

    def generator(self) -> Generator:
        """Chance that is the same each time."""
        return Generator().manual_seed(self.seed)

    def vectors(self, rows: Int[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """Embeddings as images are compared."""
        return self.normalize(self.embeddings[rows].float())

    def normalize(self, embeddings: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Float32 embeddings, centred if there is a mean, of unit length beyond float16's."""
        return F.normalize(embeddings if self.mean is None else embeddings - self.mean, dim=1)

    def sample(self, size: int) -> Int[Tensor, " A"]:
        """Positions of the whole pool up to `size` images, of a uniform sample beyond."""
        if len(self) <= size:
            return torch.arange(len(self))
        return torch.randperm(len(self), generator=self.generator())[:size].sort().values

    def part(self, positions: Int[Tensor, " K"]) -> "Pool":
        """The pool reduced to some of its images."""
        return replace(self, rows=self.rows[positions])

    def score(self, uncertainty: Callable[[Tensor], Tensor]) -> Float[Tensor, " N"]:
        """Apply a function of class probabilities, (B, C) to (B,), to the pool block by block.

        Raises:
            NoClasses: there are fewer than two classes.
        """
        classify = self.classify()
        return self.map(lambda embeddings: uncertainty(classify(embeddings)))

    def best(
        self, uncertainty: Callable[[Tensor], Tensor], budget: int, *, slope: float | None = None
    ) -> "Ranking":
        """The images of the highest uncertainty: `top(score(uncertainty), budget)`.

        Args:
            slope: where it is known that the uncertainty changes with the logit of a class by no
                more than this times the probability of the class, and with all of them together by
                no more than twice itself. It allows to look at those images only that the latest
                labels may have moved to the top.

        Raises:
            NoClasses: there are fewer than two classes.
        """
        if self.shortcut is None or slope is None or not len(self) or budget < 1:
            return top(self.score(uncertainty), budget)
        return self.shortcut(self.rows, uncertainty, slope, budget)

    def map(self, function: Callable[[Tensor], Tensor]) -> Float[Tensor, " N"]:
        """Apply a function of float32 embeddings, (B, D) to (B,), to the pool block by block."""
        if not len(self):
            return torch.empty(0)
        return torch.cat([self._mapped(function, b) for b in torch.split(self.rows, BLOCK_ROWS)])

    def _mapped(
        self, function: Callable[[Tensor], Tensor], block: Int[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """Where few rows lie between, these are computed too: cheaper than to gather the others."""
        first, last = int(block[0]), int(block[-1])
        if last - first < DENSE * len(block) and bool((block.diff() > 0).all()):
            return function(self.embeddings[first : last + 1].float())[block - first]
        return function(self.embeddings[block].float())

    def classify(self) -> Callable[[Tensor], Tensor]:
        """The function of class probabilities.

        Raises:
            NoClasses: there are fewer than two classes.
        """
        if self.probabilities is None:
            raise NoClasses("this strategy needs at least two classes with support")
        return self.probabilities


class Ranking(NamedTuple):
    """The chosen images in the order in which to label them."""

    indices: Int[Tensor, " K"]  # into the pool, from 0 to N - 1
    scores: Float[Tensor, " K"]  # what made the strategy choose each
    # With which probability each was drawn at random; 0 for what the strategy chose. None: all 0.
    propensities: Float[Tensor, " K"] | None = None


@runtime_checkable
class AcquisitionStrategy(Protocol):
    """The options of one strategy; `rank` picks at most `budget` images.

    One that scores images one by one returns the highest, another a batch that makes sense
    as a whole. Either looks at the pool only, so the same pool gives the same ranking.
    """

    needs_classes: ClassVar[bool]

    def rank(self, pool: Pool, budget: int) -> Ranking: ...


def of_labeled(strategy: AcquisitionStrategy) -> bool:
    """Whether it ranks labeled images instead of the pool; most strategies need not say so."""
    return getattr(strategy, "of_labeled", False)


def top(scores: Float[Tensor, " N"], budget: int) -> Ranking:
    """Rank images that can be scored one by one; ties keep pool order."""
    if budget >= len(scores):
        order = scores.argsort(descending=True, stable=True)
        return Ranking(order, scores[order])
    worst = scores.topk(budget).values[-1]
    above = (scores > worst).nonzero().squeeze(1)  # fewer than the budget
    tied = (scores == worst).nonzero().squeeze(1)[: budget - len(above)]
    selected = torch.cat([above, tied])
    order = selected[scores[selected].argsort(descending=True, stable=True)]
    return Ranking(order, scores[order])


def doubt(probabilities: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """1 - the largest probability, as the sum of the others.

    The difference would round to 0 for all images that are nearly certain, and so lose their order.
    """
    return _but_largest(probabilities).sum(dim=1)


def closeness(probabilities: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """1 - the margin between the two largest probabilities, as 1 - first + second."""
    smaller = _but_largest(probabilities)
    return smaller.sum(dim=1) + smaller.amax(dim=1)


def _but_largest(probabilities: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """Probabilities with 0 for the largest."""
    return probabilities.scatter(1, probabilities.max(dim=1, keepdim=True).indices, 0)


# How fast these change with the logit of a class, at most, as multiples of its probability: the
# margin p - q of the likeliest two by q (1 + p - q) with that of the second, the doubt 1 - p by
# p (1 - p) with that of the first. The sum over all classes is at most twice the uncertainty.
DOUBT_SLOPE, CLOSENESS_SLOPE = 1.0, 2.0


def sharpen(probabilities: Float[Tensor, "B C"], temperature: float) -> Float[Tensor, "B C"]:
    """Probabilities raised to 1 / temperature; 1 leaves them as they are."""
    if temperature == 1:
        return probabilities
    tiny = torch.finfo(torch.float32).tiny
    return (probabilities.clamp_min(tiny).log() / temperature).softmax(dim=1)
