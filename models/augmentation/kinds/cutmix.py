"""CutMix."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from models.augmentation import beta, uniform
from models.augmentation.kinds import augmentations
from models.registry import require_within


@augmentations.register
@dataclass(frozen=True, kw_only=True)
class Cutmix:
    """Paste a rectangle of another image, and as much of its target (Yun et al., 2019).

    https://arxiv.org/abs/1905.04899
    """

    alpha: float = 1.0  # the share that is kept is drawn from Beta(alpha, alpha)

    def __post_init__(self) -> None:
        # Below, Jöhnk's method hardly ever accepts what it draws in float32.
        require_within(self, "alpha", 0.01, 1)

    def __call__(
        self,
        images: Float[Tensor, "B 3 S S"],
        targets: Float[Tensor, "B C"],
        generator: Generator,
    ) -> tuple[Float[Tensor, "B 3 S S"], Float[Tensor, "B C"]]:
        count, _, side, _ = images.shape
        edge = (1 - beta(count, self.alpha, generator)).sqrt().view(-1, 1, 1)  # equation 2
        x, y = (uniform(count, 0.0, 1.0, generator).view(-1, 1, 1) for _ in range(2))
        place = (torch.arange(side) + 0.5) / side
        pasted = ((place.view(1, 1, -1) - x).abs() < edge / 2) & (
            (place.view(1, -1, 1) - y).abs() < edge / 2
        )
        partners = torch.randperm(count, generator=generator)
        share = 1 - pasted.float().mean(dim=(1, 2)).view(-1, 1)  # what lies inside the image counts
        return (
            torch.where(pasted.unsqueeze(1), images[partners], images),
            share * targets + (1 - share) * targets[partners],
        )
