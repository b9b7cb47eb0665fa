"""The centres of groups, without a network."""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.generation import Groups, Sizes, Target, direction
from models.generation.generators import generators
from models.registry import require_within


@generators.register
@dataclass(frozen=True, kw_only=True)
class Clusters:
    """The centres of groups, those closest to the mean of the shots counting most.

    The plain rival of `cvae`: it takes what groups say, and learns nothing else.
    """

    temperature: float = 0.1  # divides the cosines to the centres before the softmax

    def __post_init__(self) -> None:
        require_within(self, "temperature", 1e-3, 100)

    def target(self, sizes: Sizes) -> "WeightedCentres":
        return WeightedCentres(sizes, self.temperature)

    def start(self, target: Target, groups: Groups, seed: int) -> None:
        sums = torch.zeros(groups.total, groups.points.shape[1])
        sums.index_add_(0, groups.groups, groups.points)
        centres = sums / torch.bincount(groups.groups)[:, None]
        cast(WeightedCentres, target).centres.copy_(centres)


class WeightedCentres(Target):
    """Centres, weighted by a softmax of their cosines."""

    centres: Tensor  # (G, D)

    def __init__(self, sizes: Sizes, temperature: float) -> None:
        super().__init__()
        self._temperature = temperature
        self.register_buffer("centres", torch.zeros(sizes.groups, sizes.dim))

    def forward(
        self, means: Float[Tensor, "C D"], shots: Int[Tensor, " C"]
    ) -> Float[Tensor, "C D"]:
        cosines = direction(means) @ direction(self.centres).T
        return (cosines / self._temperature).softmax(dim=1) @ self.centres
