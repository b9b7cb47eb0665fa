"""Blur."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional as F

from models.augmentation import bernoulli, uniform
from models.augmentation.kinds import augmentations
from models.registry import require_within

REACH = 3  # standard deviations; beyond them lies 0.3 % of a normal distribution


@augmentations.register
@dataclass(frozen=True, kw_only=True)
class Blur:
    """Convolve with a normal distribution, as wide for each image as it draws."""

    deviation: float = 0.01  # greatest standard deviation, as a share of the side
    probability: float = 0.5

    def __post_init__(self) -> None:
        require_within(self, "deviation", 0, 0.1, exclusive=True)
        require_within(self, "probability", 0, 1)

    def __call__(
        self,
        images: Float[Tensor, "B 3 S S"],
        targets: Float[Tensor, "B C"],
        generator: Generator,
    ) -> tuple[Float[Tensor, "B 3 S S"], Float[Tensor, "B C"]]:
        count, channels, side, _ = images.shape
        most = self.deviation * side  # pixels
        sigma = uniform(count, most / 10, most, generator).view(-1, 1)
        sigma[~bernoulli(count, self.probability, generator)] = 1e-3  # the image as it is
        reach = min(max(1, round(REACH * most)), side - 1)
        steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
        kernels = (-0.5 * (steps / sigma) ** 2).softmax(dim=1)  # (B, 2 reach + 1)
        kernels = kernels.repeat_interleave(channels, dim=0)
        blurred = images.reshape(1, count * channels, side, side)
        for shape, pad in (
            ((-1, 1, 1, 2 * reach + 1), (reach, reach, 0, 0)),
            ((-1, 1, 2 * reach + 1, 1), (0, 0, reach, reach)),
        ):
            padded = F.pad(blurred, pad, mode="reflect")
            blurred = F.conv2d(padded, kernels.view(shape), groups=count * channels)
        return blurred.view_as(images), targets
