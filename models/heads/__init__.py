"""Heads: from the embeddings of support images to the classes of queries."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from models.heads.calibration import fit_temperature, log_loss

CALIBRATION_ROWS = 2048  # support images, at most, that choose a temperature or a strength


ROWS_PER_BLOCK = 4096


FEW = 16  # embeddings, of which a normalized copy costs nothing


SHORT = 16  # classes, below which torch's softmax of rows is several times slower than of columns


CLOSE = 0.1  # squared distance to the mean, in squared lengths, below which float32 is lost


@runtime_checkable
class Head(Protocol):
    """The options of one head. What is None is chosen by `fit`, by leave-one-out."""

    @property
    def uses_mean(self) -> bool:
        """Whether `fit` needs the mean embedding of all images of the project."""
        ...

    def fit(
        self,
        embeddings: Float[Tensor, "M D"],
        targets: Int[Tensor, " M"],
        classes: int,
        mean: Float[Tensor, " D"] | None = None,
    ) -> "FittedHead":
        """Learn from labeled embeddings.

        Args:
            targets: the class of each row, from 0 to `classes - 1`; each class occurs.

        Raises:
            ValueError: a class has no shot.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class FittedHead(ABC):
    """A head that knows its classes.

    It computes in float64 where it is given float64, and otherwise in float32.
    """

    options: Head  # with all that was chosen: another fit with them chooses nothing
    temperature: float
    mean: Float[Tensor, " D"] | None  # subtracted first; None: not centred
    centroids: Float[Tensor, "C D"]  # directions of the class means, of unit length
    # Log loss of leave-one-out, classes counting alike; NaN: none to leave out, or not asked.
    loss: float = math.nan
    # The same of each head that it was chosen from.
    losses: dict[str, float] = field(default_factory=dict)

    @property
    def leaves_out_exactly(self) -> bool:
        """Whether `leave_one_out` is what another fit without the image says."""
        return True

    @abstractmethod
    def scores(self, queries: Float[Tensor, "Q D"]) -> Float[Tensor, "Q C"]:
        """How well each class suits; differences within a row, by the temperature, are log odds."""

    @abstractmethod
    def leave_one_out_scores(
        self, embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
    ) -> Float[Tensor, "M C"]:
        """`scores` of support images, each by a head that was fitted without it; in float64."""

    def similarities(self, queries: Float[Tensor, "Q D"]) -> Float[Tensor, "Q C"]:
        """Cosine of each query to each centroid."""
        return cosines(queries, self.centroids, self.mean).clamp_(-1, 1)

    def probabilities(self, queries: Float[Tensor, "Q D"]) -> Float[Tensor, "Q C"]:
        """Probability of each class; rows sum to 1."""
        return softmax(self.scores(queries) / self.temperature)

    def leave_one_out(
        self, embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
    ) -> Float[Tensor, "M C"]:
        """Log odds of support images, each by a head that was fitted without it.

        Their softmax is what `probabilities` would say; shrinkage, temperature and whatever else
        `options` holds stay. A class with one shot is lost with it: in that row the image's own
        class has minus infinity, and the other classes what a head without it says.

        Args:
            embeddings: of what the head was fitted to, all or some.
            targets: their classes, as in `fit`.
        """
        blocks = torch.split(torch.arange(len(targets)), ROWS_PER_BLOCK)
        return torch.cat(
            [self.leave_one_out_scores(embeddings[b], targets[b]) for b in blocks]
        ).div(self.temperature)


@dataclass(frozen=True)
class Support:
    """Labeled embeddings as a head sees them."""

    embeddings: Float[Tensor, "M D"]  # as given
    normalized: Float[Tensor, "M D"]
    targets: Int[Tensor, " M"]
    shots: Int[Tensor, " C"]
    mean: Float[Tensor, " D"] | None  # what was subtracted

    @property
    def repeated(self) -> bool:
        """Whether a class has two shots, so that one can be left out."""
        return bool((self.shots > 1).any())

    @property
    def evidence(self) -> float:
        """How many shots choices rest on, counted as evenly as classes count: as many if even."""
        targets = self.targets[self.judged]
        counts = torch.bincount(targets[self.shots[targets] > 1])
        counts = counts[counts > 0].double()
        return float(len(counts) ** 2 / (1 / counts).sum()) if len(counts) else 0.0

    @cached_property
    def judged(self) -> Int[Tensor, " K"]:
        """Rows on which choices are judged."""
        return evenly_spread(self.targets)

    def left_out(self, fitted: "Iterable[FittedHead]") -> Iterator[Float[Tensor, "K C"]]:
        """What heads say of these rows that were fitted without them."""
        embeddings, targets = self.embeddings[self.judged], self.targets[self.judged]
        return (head.leave_one_out_scores(embeddings, targets) for head in fitted)

    @cached_property
    def means(self) -> Float[Tensor, "C D"]:
        """The mean of each class, in float64."""
        return class_means(self.normalized, self.targets, self.shots)

    @cached_property
    def centroids(self) -> Float[Tensor, "C D"]:
        """The directions of these."""
        return F.normalize(self.means, dim=1).to(self.normalized.dtype)


@dataclass(frozen=True, kw_only=True)
class CenteredHead(ABC):
    """What heads have in common that see embeddings as they are or centred."""

    centered: bool = True  # subtract the mean embedding of all images of the project first

    @property
    def uses_mean(self) -> bool:
        return self.centered

    def fit(
        self,
        embeddings: Float[Tensor, "M D"],
        targets: Int[Tensor, " M"],
        classes: int,
        mean: Float[Tensor, " D"] | None = None,
    ) -> FittedHead:
        """Centre the embeddings and learn from them; choose what is None by leave-one-out.

        Raises:
            ValueError: a class has no shot, or the head is centred and the mean is not given.
        """
        shots = torch.bincount(targets, minlength=classes)
        if len(shots) > classes or not bool(shots.all()):
            raise ValueError(f"each of the {classes} classes needs a shot, got {shots.tolist()}")
        if not self.centered:
            mean = None
        elif mean is None:
            raise ValueError("a centred head needs the mean embedding of all images")
        return self.fit_support(
            Support(embeddings, center_and_normalize(embeddings, mean), targets, shots, mean)
        )

    @abstractmethod
    def fit_support(self, support: Support) -> FittedHead:
        """The head fitted to these."""


Fitted = TypeVar("Fitted", bound=FittedHead)


def center_and_normalize(
    embeddings: Float[Tensor, "M D"], mean: Float[Tensor, " D"] | None
) -> Float[Tensor, "M D"]:
    """Embeddings as heads see them: centred and again of unit length, if there is a mean."""
    values = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
    return values if mean is None else F.normalize(values - mean, dim=1)


def products(
    embeddings: Float[Tensor, "M D"],
    directions: Float[Tensor, "C D"],
    mean: Float[Tensor, " D"] | None,
) -> Float[Tensor, "M C"]:
    """`center_and_normalize(embeddings, mean) @ directions.T`, without a copy of the embeddings."""
    if mean is None or len(embeddings) <= FEW:
        normalized = center_and_normalize(embeddings, mean)
        return normalized @ directions.to(normalized.dtype).T
    dots, lengths = centred_products(embeddings, directions, mean)
    return dots / lengths[:, None]


def centred_products(
    embeddings: Float[Tensor, "M D"],
    directions: Float[Tensor, "C D"],
    mean: Float[Tensor, " D"] | None,
) -> tuple[Float[Tensor, "M C"], Float[Tensor, " M"]]:
    """<x - m, d> and |x - m|, or without a mean <x, d> and |x|, without a copy of all x - m.

    They follow from <x, d>, <x, m> and |x|. Where x is close to the mean m these cancel, and the
    copy is made.
    """
    values = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
    directions = directions.to(values.dtype)
    lengths: Tensor = torch.linalg.vector_norm(values, dim=1)
    if mean is None:
        return values @ directions.T, lengths.clamp_min(1e-12)
    mean = mean.to(values.dtype)
    dots = values @ torch.cat([directions, mean[None]]).T
    squared = lengths.square()
    squared_lengths = squared - 2 * dots[:, -1] + mean @ mean
    centred_dots, centred_lengths = (
        dots[:, :-1] - directions @ mean,
        squared_lengths.clamp_min(1e-30).sqrt(),
    )
    close = squared_lengths < CLOSE * squared
    if bool(close.any()):
        copies = values[close] - mean
        centred_dots[close] = copies @ directions.T
        centred_lengths[close] = torch.linalg.vector_norm(copies, dim=1).clamp_min(1e-12)
    return centred_dots, centred_lengths


def cosines(
    embeddings: Float[Tensor, "M D"],
    directions: Float[Tensor, "C D"],
    mean: Float[Tensor, " D"] | None,
) -> Float[Tensor, "M C"]:
    """Cosines of embeddings, less the mean if there is one, to directions of unit length."""
    if mean is not None:
        return products(embeddings, directions, mean)
    dots, lengths = centred_products(embeddings, directions, None)
    return dots / lengths[:, None]


def softmax(logits: Float[Tensor, "M C"]) -> Float[Tensor, "M C"]:
    """`logits.softmax(dim=1)`, of few classes by columns."""
    if logits.shape[1] < SHORT:
        return logits.T.contiguous().softmax(dim=0).T
    return logits.softmax(dim=1)


def class_means(
    normalized: Float[Tensor, "M D"], targets: Int[Tensor, " M"], shots: Int[Tensor, " C"]
) -> Float[Tensor, "C D"]:
    """The mean of each class, in float64.

    Stored embeddings are float16, so they are multiples of 2^-24 and their float64 sum is exact:
    unless it is centred, a mean does not depend on the order in which shots came and went.
    """
    sums = torch.zeros(len(shots), normalized.shape[1], dtype=torch.float64)
    for rows in torch.split(torch.arange(len(targets)), ROWS_PER_BLOCK):
        sums.index_add_(0, targets[rows], normalized[rows].double())
    return sums / shots[:, None]


def best_by_leave_one_out(
    fitted: Sequence[Fitted],
    support: Support,
    expected: float,
    left_out: Callable[[], Iterable[Float[Tensor, "K C"]]] | None = None,
    prior: Float[Tensor, "K C"] | float = 0.0,
) -> Fitted:
    """The head whose leave-one-out has the least log loss, with its temperature.

    That is the temperature of the options, or else the one fitted to the leave-one-out scores.

    Args:
        fitted: with a temperature of 1, to what `support` holds.
        expected: the temperature where there is nothing to fit it on.
        left_out: `leave_one_out_scores` of `support.judged` by each, where that is cheaper for all.
        prior: log odds that the head takes off once it has its temperature.
    """
    first: Any = fitted[0].options
    if first.temperature is not None and len(fitted) == 1:
        return replace(fitted[0], temperature=first.temperature)
    targets, judged = support.targets[support.judged], []
    for head, scores in zip(
        fitted, left_out() if left_out else support.left_out(fitted), strict=True
    ):
        options, loss = calibrate(head.options, scores, targets, expected, prior)
        judged.append(replace(head, options=options, temperature=options.temperature, loss=loss))
    return min(judged, key=lambda head: head.loss)


class Calibrated(NamedTuple):
    """Options with their temperature, and how well they do."""

    options: Any
    loss: float  # log loss of leave-one-out


def calibrate(
    options: Any,
    scores: Float[Tensor, "K C"],
    targets: Int[Tensor, " K"],
    expected: float,
    prior: Float[Tensor, "K C"] | float = 0.0,
) -> Calibrated:
    """The temperature of the options, or else the one fitted to leave-one-out scores.

    Args:
        expected: the temperature where there is nothing to fit it on.
        prior: log odds that the head takes off once it has its temperature.
    """
    temperature = options.temperature
    if temperature is None:
        temperature = fit_temperature(scores, targets, expected)
    return Calibrated(
        replace(options, temperature=temperature), log_loss(scores / temperature - prior, targets)
    )


def evenly_spread(targets: Int[Tensor, " M"]) -> Int[Tensor, " K"]:
    """Rows that choose a temperature: all, or `CALIBRATION_ROWS` of them evenly over the classes.

    Which rows these are does not depend on the order of rows but within a class.
    """
    if len(targets) <= CALIBRATION_ROWS:
        return torch.arange(len(targets))
    by_class = targets.argsort(stable=True)
    evenly = torch.linspace(0, len(targets) - 1, CALIBRATION_ROWS, dtype=torch.float64)
    return by_class[evenly.long()]
