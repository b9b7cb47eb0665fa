"""Brightness, contrast, saturation and hue; grey and negative images."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from models.augmentation import bernoulli, uniform
from models.augmentation.kinds import augmentations
from models.registry import require_within

LUMA = torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601


DIAGONAL = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)


@augmentations.register
@dataclass(frozen=True, kw_only=True)
class Colour:
    """Random light and colours; the hue turns about the grey diagonal of the RGB cube.

    Howard, 2013. https://arxiv.org/abs/1312.5402
    """

    brightness: float = 0.2  # factors are from 1 - this to 1 + this
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.0  # greatest turn, as a share of the circle
    probability: float = 1.0  # of the above
    grey: float = 0.0  # probability to lose all colour
    solarize: float = 0.0  # probability to invert what is brighter than half

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation", "probability", "grey", "solarize"):
            require_within(self, name, 0, 1)
        require_within(self, "hue", 0, 0.5)

    def __call__(
        self,
        images: Float[Tensor, "B 3 S S"],
        targets: Float[Tensor, "B C"],
        generator: Generator,
    ) -> tuple[Float[Tensor, "B 3 S S"], Float[Tensor, "B C"]]:
        count = len(images)
        brightness, contrast, saturation = (
            uniform(count, 1 - most, 1 + most, generator)
            for most in (self.brightness, self.contrast, self.saturation)
        )
        turn = uniform(count, -self.hue, self.hue, generator) * 2 * math.pi
        if self.probability < 1:
            still = ~bernoulli(count, self.probability, generator)
            brightness[still], contrast[still], saturation[still], turn[still] = 1, 1, 1, 0
        if self.grey:
            saturation[bernoulli(count, self.grey, generator)] = 0.0
        matrices = _saturate(saturation) @ _turn(turn) * brightness.view(-1, 1, 1)  # (B, 3, 3)
        coloured = torch.einsum("bij,bjhw->bihw", matrices, images)
        grey = torch.einsum("j,bjhw->bhw", LUMA, coloured).mean(dim=(1, 2)).view(-1, 1, 1, 1)
        changed = (grey + (coloured - grey) * contrast.view(-1, 1, 1, 1)).clamp(0, 1)
        if self.solarize:
            negative = bernoulli(count, self.solarize, generator).view(-1, 1, 1, 1)
            changed = torch.where(negative & (changed >= 0.5), 1 - changed, changed)
        return changed, targets


def _saturate(factor: Float[Tensor, " B"]) -> Float[Tensor, "B 3 3"]:
    """Between the grey of the same luma and the colour."""
    keep = factor.view(-1, 1, 1)
    return keep * torch.eye(3) + (1 - keep) * LUMA.expand(3, 3)


def _turn(angle: Float[Tensor, " B"]) -> Float[Tensor, "B 3 3"]:
    """Rotation about the vector (1, 1, 1), by Rodrigues' formula."""
    sine, cosine = angle.sin().view(-1, 1, 1), angle.cos().view(-1, 1, 1)
    return cosine * torch.eye(3) + sine * DIAGONAL + (1 - cosine) * torch.ones(3, 3) / 3
