"""Mixup."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from models.augmentation import beta
from models.augmentation.kinds import augmentations
from models.registry import require_within


@augmentations.register
@dataclass(frozen=True, kw_only=True)
class Mixup:
    """Blend each image and its target with another of the batch (Zhang et al., 2018).

    https://arxiv.org/abs/1710.09412
    """

    alpha: float = 0.2  # the share of the other image is drawn from Beta(alpha, alpha)

    def __post_init__(self) -> None:
        # Below, Jöhnk's method hardly ever accepts what it draws in float32.
        require_within(self, "alpha", 0.01, 1)

    def __call__(
        self,
        images: Float[Tensor, "B 3 S S"],
        targets: Float[Tensor, "B C"],
        generator: Generator,
    ) -> tuple[Float[Tensor, "B 3 S S"], Float[Tensor, "B C"]]:
        share = beta(len(images), self.alpha, generator).view(-1, 1)
        share = torch.maximum(share, 1 - share)  # each image stays the larger part of its own
        partners = torch.randperm(len(images), generator=generator)
        weight = share.view(-1, 1, 1, 1)
        return (
            weight * images + (1 - weight) * images[partners],
            share * targets + (1 - share) * targets[partners],
        )
