"""The nearest images, without a network."""

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
class Nearest:
    """The mean of the images nearest to the mean of the shots, of the pool and of labels.

    The plainest rival of `cvae`: it learns nothing, and asks for no groups.
    """

    count: int = 20  # of them

    def __post_init__(self) -> None:
        require_within(self, "count", 1, 10_000)

    def target(self, sizes: Sizes) -> "NearestMean":
        return NearestMean(sizes, min(self.count, sizes.points))

    def start(self, target: Target, groups: Groups, seed: int) -> None:
        cast(NearestMean, target).points.copy_(groups.points)


class NearestMean(Target):
    """Images, as many as are grouped."""

    points: Tensor  # (N, D), float16

    def __init__(self, sizes: Sizes, count: int) -> None:
        super().__init__()
        self._count = count
        points = torch.zeros(sizes.points, sizes.dim, dtype=torch.float16)
        self.register_buffer("points", points)

    def forward(
        self, means: Float[Tensor, "C D"], shots: Int[Tensor, " C"]
    ) -> Float[Tensor, "C D"]:
        points = self.points.float()
        nearest = (direction(means) @ points.T).topk(self._count, dim=1).indices  # (C, K)
        return torch.stack([points[rows].mean(dim=0) for rows in nearest])
