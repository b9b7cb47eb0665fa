"""Vote of the nearest support images."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from models.heads import (
    FittedHead,
    Placing,
    Support,
    best,
    calibrated,
    check,
    heads,
    place,
)

NUMBERS = (1, 3, 5, 10, 20)  # of neighbours, to choose from
NUMBER = 1  # where there is nothing to choose on
WIDTH = 0.1  # a neighbour whose cosine is lower by this has 1 / e of the weight
SIMILARITIES = 1 << 25  # that are held at a time: 256 MB in float64
FLOOR = 0.01  # of a vote that each class has anyway, in units of a neighbour of cosine 1
# Measured with EfficientNet-Lite0 on photos of clothes, on hands and on digits:
EXPECTED_TEMPERATURE = 1.5


@heads.register
@dataclass(frozen=True, kw_only=True)
class Knn(Placing):
    """Weighted vote of the k nearest support images (Wu et al., 2018, equation 15).

    https://arxiv.org/abs/1805.01978 It remembers all support images.
    """

    neighbours: int | None = None  # None: chosen
    temperature: float | None = None  # divides log votes before the softmax; None: fitted

    def __post_init__(self) -> None:
        check("neighbours", self.neighbours, 1, 1000)
        check("temperature", self.temperature, 1e-3, 1e3)

    def learn(self, support: Support) -> "FittedKnn":
        """Remember the images; choose how many vote if that is None."""
        units = F.normalize(support.placed, dim=1)
        choices = NUMBERS if support.repeated else (NUMBER,)
        fitted = []
        for number in choices if self.neighbours is None else (self.neighbours,):
            one = FittedKnn(
                options=replace(self, neighbours=number),
                temperature=1.0,
                mean=support.mean,
                centroids=support.centroids,
                neighbours=number,
                shots=support.shots,
                support=units,
                targets=support.targets,
            )
            fitted.append(calibrated(one, support, EXPECTED_TEMPERATURE))
        return best(fitted, support)


@dataclass(frozen=True, kw_only=True)
class FittedKnn(FittedHead):
    """The support images, and how many of them vote."""

    neighbours: int
    shots: Int[Tensor, " C"]
    support: Float[Tensor, "M D"]
    targets: Int[Tensor, " M"]

    def scores(self, queries: Float[Tensor, "Q D"]) -> Float[Tensor, "Q C"]:
        """Logarithms of votes."""
        units = F.normalize(place(queries, self.mean), dim=1)
        support = self.support.to(units.dtype)
        return torch.cat(
            [self._votes(block @ support.T) for block in torch.split(units, self._rows())]
        )

    def scores_without(
        self, embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
    ) -> Float[Tensor, "M C"]:
        """The image itself, the nearest of its class, does not vote."""
        rows = torch.split(torch.arange(len(targets)), self._rows())
        support = self.support.double()
        return torch.cat([self._votes_without(embeddings[r], targets[r], support) for r in rows])

    def _rows(self) -> int:
        """Images at a time."""
        return max(1, SIMILARITIES // len(self.targets))

    def _votes_without(
        self,
        embeddings: Float[Tensor, "B D"],
        targets: Int[Tensor, " B"],
        support: Float[Tensor, "M D"],
    ) -> Float[Tensor, "B C"]:
        units = F.normalize(place(embeddings, self.mean).double(), dim=1)
        cosines = units @ support.T
        own = targets[:, None] == self.targets
        itself = cosines.masked_fill(~own, -torch.inf).argmax(dim=1, keepdim=True)
        votes = self._votes(cosines.scatter(1, itself, -torch.inf))
        alone = own & (self.shots[targets] == 1)[:, None]
        lost = torch.zeros_like(votes, dtype=torch.bool)
        lost[alone.any(dim=1), targets[alone.any(dim=1)]] = True
        return votes.masked_fill(lost, -torch.inf)

    def _votes(self, cosines: Float[Tensor, "Q M"]) -> Float[Tensor, "Q C"]:
        nearest = cosines.topk(min(self.neighbours, cosines.shape[1]), dim=1)
        weights = ((nearest.values - 1) / WIDTH).exp()
        votes = torch.full((len(cosines), len(self.shots)), 0.0, dtype=cosines.dtype)
        votes.scatter_add_(1, self.targets[nearest.indices], weights)
        # Relative to the nearest, so that far images do not all become equal.
        return (votes / weights[:, :1].clamp_min(1e-30) + FLOOR).log()
