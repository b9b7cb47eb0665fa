"""Vote of the nearest support images."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from models.heads import (
    CenteredHead,
    FittedHead,
    Support,
    best_by_leave_one_out,
    center_and_normalize,
)
from models.heads.kinds import heads
from models.registry import require_within

NUMBERS = (1, 3, 5, 10, 20)  # of neighbours, to choose from


NUMBER = 1  # where there is nothing to choose on


WIDTH = 0.1  # a neighbour whose cosine is lower by this has 1 / e of the weight


SIMILARITIES = 1 << 25  # that are held at a time: 256 MB in float64


FLOOR = 0.01  # of a vote that each class has anyway, in units of a neighbour of cosine 1


# Measured with EfficientNet-Lite0 on photos of clothes, on hands and on digits:
EXPECTED_TEMPERATURE = 1.5


@heads.register
@dataclass(frozen=True, kw_only=True)
class Knn(CenteredHead):
    """Weighted vote of the k nearest support images (Wu et al., 2018, equation 15).

    https://arxiv.org/abs/1805.01978 It remembers all support images. A vote counts the less, the
    more shots its class has: what is compared is how dense each class lies around the query, so
    that a class with one shot and one with a hundred compete fairly.
    """

    neighbours: int | None = None  # None: chosen
    temperature: float | None = None  # divides log votes before the softmax; None: fitted

    def __post_init__(self) -> None:
        require_within(self, "neighbours", 1, 1000)
        require_within(self, "temperature", 1e-3, 1e3)

    def fit_support(self, support: Support) -> "FittedKnn":
        """Remember the images; choose how many vote if that is None."""
        units = F.normalize(support.normalized, dim=1)
        choices = NUMBERS if support.repeated else (NUMBER,)
        fitted = [
            FittedKnn(
                options=replace(self, neighbours=number),
                temperature=1.0,
                mean=support.mean,
                centroids=support.centroids,
                neighbours=number,
                shots=support.shots,
                support=units,
                targets=support.targets,
            )
            for number in (choices if self.neighbours is None else (self.neighbours,))
        ]

        def left_out() -> Iterator[Tensor]:
            """All choices look among the neighbours of the one that needs most."""
            judged, targets = support.normalized[support.judged], support.targets[support.judged]
            nearest = max(fitted, key=lambda head: head.neighbours).nearest(judged)
            return (head.downdated(nearest, targets) for head in fitted)

        return best_by_leave_one_out(fitted, support, EXPECTED_TEMPERATURE, left_out)


class NearestShots(NamedTuple):
    """The nearest support images, nearest first; of a support image itself among them."""

    cosines: Float[Tensor, "M K"]
    rows: Int[Tensor, "M K"]


@dataclass(frozen=True, kw_only=True)
class FittedKnn(FittedHead):
    """The support images, and how many of them vote."""

    neighbours: int
    shots: Int[Tensor, " C"]
    support: Float[Tensor, "M D"]
    targets: Int[Tensor, " M"]

    def scores(self, queries: Float[Tensor, "Q D"]) -> Float[Tensor, "Q C"]:
        """Logarithms of votes."""
        units = F.normalize(center_and_normalize(queries, self.mean), dim=1)
        support = self.support.to(units.dtype)
        count = min(self.neighbours, len(support))
        blocks = torch.split(units, self._rows())
        worth = _worth(self.shots[None])
        return torch.cat(
            [self._votes(*(block @ support.T).topk(count, dim=1), worth) for block in blocks]
        )

    def leave_one_out_scores(
        self, embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
    ) -> Float[Tensor, "M C"]:
        """The image itself, the nearest of its class, does not vote."""
        return self.downdated(self.nearest(center_and_normalize(embeddings, self.mean)), targets)

    def nearest(self, normalized: Float[Tensor, "M D"]) -> NearestShots:
        """Of support images, in float64: as many as vote and one more."""
        count, support = min(self.neighbours + 1, len(self.support)), self.support.double()
        blocks = torch.split(F.normalize(normalized.double(), dim=1), self._rows())
        tops = [(block @ support.T).topk(count, dim=1) for block in blocks]
        return NearestShots(
            torch.cat([f.values for f in tops]), torch.cat([f.indices for f in tops])
        )

    def downdated(self, nearest: NearestShots, targets: Int[Tensor, " M"]) -> Float[Tensor, "M C"]:
        """Scores of support images, of which so many neighbours are known or more."""
        count = min(self.neighbours + 1, len(self.support))
        values, indices = nearest.cosines[:, :count], nearest.rows[:, :count]
        same_class = self.targets[indices] == targets[:, None]
        # Where none of its class is so near, it is not among them: the last one goes.
        itself = same_class.int().argmax(dim=1).where(same_class.any(dim=1), count - 1)
        is_voter = torch.ones_like(same_class).scatter(1, itself[:, None], False)
        voters = (
            values[is_voter].view(len(same_class), -1),
            indices[is_voter].view(len(same_class), -1),
        )
        shots = self.shots - F.one_hot(targets, len(self.shots))
        return self._votes(*voters, _worth(shots)).masked_fill(shots == 0, -torch.inf)

    def _rows(self) -> int:
        """Images at a time."""
        return max(1, SIMILARITIES // len(self.targets))

    def _votes(
        self,
        cosines: Float[Tensor, "B K"],
        neighbours: Int[Tensor, "B K"],
        worth: Float[Tensor, "#B C"],
    ) -> Float[Tensor, "B C"]:
        """Of the nearest images, nearest first."""
        weights = ((cosines - 1) / WIDTH).exp()
        votes = torch.zeros(len(cosines), len(self.shots), dtype=cosines.dtype)
        votes.scatter_add_(1, self.targets[neighbours], weights)
        # Relative to the nearest, so that far images do not all become equal.
        return (votes / weights[:, :1].clamp_min(1e-30) * worth.to(votes.dtype) + FLOOR).log()


def _worth(shots: Int[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """What a vote counts: the mean number of shots of a class over that of its own."""
    mean = shots.sum(dim=1, keepdim=True) / (shots > 0).sum(dim=1, keepdim=True).double()
    return mean / shots.clamp_min(1)
