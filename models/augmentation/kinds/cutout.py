"""Cutout."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from models.augmentation import bernoulli, uniform
from models.augmentation.kinds import augmentations
from models.registry import require_within


@augmentations.register
@dataclass(frozen=True, kw_only=True)
class Cutout:
    """Cover a square of the image with its mean colour (DeVries & Taylor, 2017).

    https://arxiv.org/abs/1708.04552
    """

    side: float = 0.5  # of the square, as a share of the image's
    probability: float = 0.5

    def __post_init__(self) -> None:
        for name in ("side", "probability"):
            require_within(self, name, 0, 1)

    def __call__(
        self,
        images: Float[Tensor, "B 3 S S"],
        targets: Float[Tensor, "B C"],
        generator: Generator,
    ) -> tuple[Float[Tensor, "B 3 S S"], Float[Tensor, "B C"]]:
        count, _, side, _ = images.shape
        # As in the paper, the centre may lie at the border, so a part of the square falls outside.
        x, y = (uniform(count, 0.0, 1.0, generator).view(-1, 1, 1) for _ in range(2))
        place = (torch.arange(side) + 0.5) / side
        inside = ((place.view(1, 1, -1) - x).abs() < self.side / 2) & (
            (place.view(1, -1, 1) - y).abs() < self.side / 2
        )
        inside &= bernoulli(count, self.probability, generator).view(-1, 1, 1)
        mean = images.mean(dim=(2, 3), keepdim=True)
        return torch.where(inside.unsqueeze(1), mean, images), targets
