"""RandAugment."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from models.augmentation.kinds import augmentations
from models.augmentation.operations import FOURTEEN, SCALES, operate
from models.registry import require_within

MOST = 10  # operations; the paper tries up to 3


STRONGEST = 10  # end of the paper's scale of magnitudes


@augmentations.register
@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """Apply random operations, all of the same strength (Cubuk et al., 2020).

    A greater `m` always changes more, as in torchvision: a factor of light or colour is 1 + 0.09 m
    or 1 - 0.09 m. The published code has 0.1 + 0.18 m, which at 5 is no change.

    https://arxiv.org/abs/1909.13719
    """

    n: int = 2  # operations, one after the other
    m: float = 9.0  # strength; at 10, for example, a rotation is by 30 degrees

    def __post_init__(self) -> None:
        require_within(self, "n", 1, MOST)
        require_within(self, "m", 0, STRONGEST, exclusive=True)

    def __call__(
        self,
        images: Float[Tensor, "B 3 S S"],
        targets: Float[Tensor, "B C"],
        generator: Generator,
    ) -> tuple[Float[Tensor, "B 3 S S"], Float[Tensor, "B C"]]:
        count = len(images)
        strengths = [self.m / STRONGEST] * count
        for _ in range(self.n):
            numbers = torch.randint(len(FOURTEEN), (count,), generator=generator).tolist()
            names = [FOURTEEN[number] for number in numbers]
            images = operate(images, names, strengths, SCALES, generator)
        return images, targets
