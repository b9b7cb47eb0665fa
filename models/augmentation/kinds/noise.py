"""Noise in every pixel."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from models.augmentation import uniform
from models.augmentation.kinds import augmentations
from models.registry import require_within


@augmentations.register
@dataclass(frozen=True, kw_only=True)
class Noise:
    """Add normal noise, as strong for each image as it draws."""

    deviation: float = 0.05  # greatest standard deviation; images are in 0..1

    def __post_init__(self) -> None:
        require_within(self, "deviation", 0, 1)

    def __call__(
        self,
        images: Float[Tensor, "B 3 S S"],
        targets: Float[Tensor, "B C"],
        generator: Generator,
    ) -> tuple[Float[Tensor, "B 3 S S"], Float[Tensor, "B C"]]:
        strength = uniform(len(images), 0.0, self.deviation, generator).view(-1, 1, 1, 1)
        noise = torch.randn(images.shape, generator=generator)
        return (images + strength * noise).clamp(0, 1), targets
