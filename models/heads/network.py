"""Heads that a network makes of what is labeled, trained on labels of earlier work."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from models.heads import (
    CenteredHead,
    FittedHead,
    Head,
    Support,
    best_by_leave_one_out,
    center_and_normalize,
    products,
)
from models.registry import require_within

FOLDS = 16  # of the support, where a shot cannot be left out alone


SCALE = 10.0  # of squared distances, at the start of a training


class Condensed(NamedTuple):
    """What a network keeps of the support, to answer queries with."""

    directions: Float[Tensor, "P D"]  # queries come in only by their products with these
    rest: tuple[Tensor, ...]


class HeadModule(nn.Module, ABC):
    """What a job has learned that serves as a head."""

    @abstractmethod
    def head(self) -> Head:
        """The head that it makes, not fitted yet."""


class HeadNetwork(HeadModule):
    """Makes of labeled embeddings what answers queries; at work it learns nothing.

    Embeddings are centred and of unit length. What it says of a query depends neither on other
    queries nor on the order of labels or shots.
    """

    exact: ClassVar[bool] = False  # whether `left_out` is what refitting without a shot says

    def head(self) -> "NetworkHead":
        return NetworkHead(network=self)

    @abstractmethod
    def condense(
        self, support: Float[Tensor, "M D"], targets: Int[Tensor, " M"], classes: int
    ) -> Condensed:
        """What queries need of the support; each class has a shot."""

    @abstractmethod
    def log_odds(
        self, condensed: Condensed, projected: Float[Tensor, "Q P"]
    ) -> Float[Tensor, "Q C"]:
        """The log odds of each class, by the products of queries with `condensed.directions`."""

    def answer(self, condensed: Condensed, queries: Float[Tensor, "Q D"]) -> Float[Tensor, "Q C"]:
        """The log odds of each class for queries."""
        return self.log_odds(condensed, queries @ condensed.directions.T)

    def left_out(
        self,
        support: Float[Tensor, "M D"],
        targets: Int[Tensor, " M"],
        classes: int,
        rows: Int[Tensor, " K"],
    ) -> Float[Tensor, "K C"]:
        """The log odds of rows of the support, each by others.

        Here a row is left out with a sixteenth of the support; one that is the only shot of its
        class is asked of the whole, without its class.
        """

        def answer(visible: Bool[Tensor, "1 M"], asked: Int[Tensor, "1 Q"]) -> Tensor:
            condensed = self.condense(support[visible[0]], targets[visible[0]], classes)
            return self.answer(condensed, support[asked[0]])[None]

        return left_out_by_folds(targets, classes, rows, 1, answer)


class LinearNetwork(HeadNetwork):
    """Answers by one product: what it makes of the support is a direction and an offset a class."""

    def log_odds(
        self, condensed: Condensed, projected: Float[Tensor, "Q P"]
    ) -> Float[Tensor, "Q C"]:
        return projected + condensed.rest[0]


class PrototypeNetwork(HeadNetwork):
    """Relates queries to the prototype of each class, whatever the other classes are."""

    exact = True

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(SCALE).log())  # of squared distances

    @abstractmethod
    def relate(
        self, prototypes: Float[Tensor, "K D"], queries: Float[Tensor, "K D"]
    ) -> Float[Tensor, " K"]:
        """The log odds of each query for the class of the prototype beside it."""

    def left_out(
        self,
        support: Float[Tensor, "M D"],
        targets: Int[Tensor, " M"],
        classes: int,
        rows: Int[Tensor, " K"],
    ) -> Float[Tensor, "K C"]:
        """Only what is said of the own class changes."""
        queries, labels = support[rows], targets[rows]
        log_odds = self.answer(self.condense(support, targets, classes), queries)
        own = self.relate(prototypes_without(support, targets, classes, rows), queries)
        log_odds = log_odds.scatter(1, labels[:, None], own[:, None])
        return without_single_shots(log_odds, labels, torch.bincount(targets, minlength=classes))


class LowRankMap(nn.Module):
    """A linear map: the identity, and a part of low rank, which is zero at the start."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, width, bias=False)
        self.up = nn.Linear(width, dim, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, vectors: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        mapped: Tensor = vectors + self.up(self.down(vectors))
        return mapped

    def transposed(self, vectors: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """What the transposed map makes of vectors."""
        mapped: Tensor = vectors + vectors @ self.up.weight @ self.down.weight
        return mapped


@dataclass(frozen=True, kw_only=True)
class ModuleHead(CenteredHead):
    """A head with something that a job has learned."""

    network: HeadModule


@dataclass(frozen=True, kw_only=True)
class NetworkHead(ModuleHead):
    """The head that a network makes."""

    network: HeadNetwork
    temperature: float | None = None  # divides the log odds; None: fitted

    def __post_init__(self) -> None:
        require_within(self, "temperature", 1e-3, 1e3)

    def fit_support(self, support: Support) -> "FittedNetwork":
        """Let the network look at the support."""
        normalized = support.normalized.float()
        with torch.no_grad():
            condensed = self.network.condense(normalized, support.targets, len(support.shots))
        fitted = FittedNetwork(
            options=self,
            temperature=1.0,
            mean=support.mean,
            centroids=support.centroids,
            network=self.network,
            condensed=condensed,
            normalized=normalized,
            targets=support.targets,
        )
        return best_by_leave_one_out([fitted], support, expected=1.0)


@dataclass(frozen=True, kw_only=True)
class FittedNetwork(FittedHead):
    """What a network keeps of the support. It computes in float32, whatever it is given."""

    network: HeadNetwork
    condensed: Condensed
    normalized: Float[Tensor, "M D"]  # the support, as the network sees it
    targets: Int[Tensor, " M"]

    @property
    def leaves_out_exactly(self) -> bool:
        return self.network.exact

    @torch.no_grad()
    def scores(self, queries: Float[Tensor, "Q D"]) -> Float[Tensor, "Q C"]:
        """The log odds that the network says."""
        projected = products(queries, self.condensed.directions, self.mean)
        return self.network.log_odds(self.condensed, projected.float())

    def leave_one_out(
        self, embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
    ) -> Float[Tensor, "M C"]:
        return self.leave_one_out_scores(embeddings, targets).div(self.temperature)

    @torch.no_grad()
    def leave_one_out_scores(
        self, embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
    ) -> Float[Tensor, "M C"]:
        """As `HeadNetwork.left_out` leaves them out."""
        rows = self._rows_of(center_and_normalize(embeddings, self.mean).float(), targets)
        log_odds = self.network.left_out(self.normalized, self.targets, len(self.centroids), rows)
        return log_odds.double()

    def _rows_of(
        self, normalized: Float[Tensor, "K D"], targets: Int[Tensor, " K"]
    ) -> Int[Tensor, " K"]:
        """Which rows of the support these are: the closest of their classes."""
        rows = torch.empty(len(targets), dtype=torch.int64)
        for label in sorted(set(targets.tolist())):
            own = (self.targets == label).nonzero().flatten()
            asked = targets == label
            closest = (normalized[asked] @ self.normalized[own].T).argmax(dim=1)
            rows[asked] = own[closest]
        return rows


def left_out_by_folds(
    targets: Int[Tensor, " M"],
    classes: int,
    rows: Int[Tensor, " K"],
    most: int,
    answer: Callable[[Bool[Tensor, "R M"], Int[Tensor, "R Q"]], Float[Tensor, "R Q C"]],
) -> Float[Tensor, "K C"]:
    """The log odds of rows of the support, each by what is not in its fold: see `left_out`.

    Args:
        most: folds that are answered at a time.
        answer: the log odds of some rows by those that are visible, fold by fold.
    """
    shots = torch.bincount(targets, minlength=classes)
    folds = folds_of(targets).masked_fill(shots[targets] == 1, FOLDS)
    log_odds = torch.empty(len(rows), classes)
    present = torch.tensor(sorted(set(folds[rows].tolist())), dtype=torch.int64)
    for group in torch.split(present, most):
        visible = (folds != group[:, None]) | (group == FOLDS)[:, None]
        members = [(folds[rows] == fold).nonzero().flatten() for fold in group]
        asked = pad_sequence([rows[part] for part in members], batch_first=True)
        for part, answers in zip(members, answer(visible, asked), strict=True):
            log_odds[part] = answers[: len(part)]
    return without_single_shots(log_odds, targets[rows], shots)


def folds_of(targets: Int[Tensor, " M"]) -> Int[Tensor, " M"]:
    """The fold of each row: the shots of a class, and then the classes, take turns."""
    folds = torch.empty_like(targets)
    folds[targets.argsort(stable=True)] = torch.arange(len(targets)) % FOLDS
    return folds


def class_prototypes(
    support: Float[Tensor, "M D"], targets: Int[Tensor, " M"], classes: int
) -> Float[Tensor, "C D"]:
    """The mean of each class, as it is."""
    sums = support.new_zeros(classes, support.shape[1]).index_add(0, targets, support)
    return sums / torch.bincount(targets, minlength=classes)[:, None]


def class_shares(
    targets: Int[Tensor, " M"], classes: int, visible: Bool[Tensor, "R M"] | None = None
) -> Float[Tensor, "R C M"]:
    """Of the visible shots of each class, by which their mean is made; none where it has none."""
    shares = F.one_hot(targets, classes).T[None].float()
    if visible is not None:
        shares = shares * visible[:, None]
    return F.normalize(shares, p=1, dim=2)


def prototypes_without(
    support: Float[Tensor, "M D"], targets: Int[Tensor, " M"], classes: int, rows: Int[Tensor, " K"]
) -> Float[Tensor, "K D"]:
    """The mean of the other shots of the class of each row; of none it is close to zero."""
    shots = torch.bincount(targets, minlength=classes)[targets[rows], None]
    sums = class_prototypes(support, targets, classes)[targets[rows]] * shots
    return (sums - support[rows]) / (shots - 1).clamp_min(1)


def without_single_shots(
    log_odds: Float[Tensor, "K C"], targets: Int[Tensor, " K"], shots: Int[Tensor, " C"]
) -> Float[Tensor, "K C"]:
    """Minus infinity for the own class of a row that was its only shot."""
    lost = (shots[targets] == 1).nonzero().flatten()
    log_odds[lost, targets[lost]] = -torch.inf
    return log_odds
