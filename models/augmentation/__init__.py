"""Augmentation: other images that would have the same label, or a mixture of labels.

Batched on tensors; every image draws its own strengths, all of them from the given generator.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional as F


@runtime_checkable
class Augmentation(Protocol):
    """The options of one augmentation."""

    def __call__(
        self,
        images: Float[Tensor, "B 3 S S"],
        targets: Float[Tensor, "B C"],
        generator: Generator,
    ) -> tuple[Float[Tensor, "B 3 S S"], Float[Tensor, "B C"]]:
        """Change images with values in 0..1, and the shares of their classes where they mix."""
        ...


def apply(
    policy: Sequence[Augmentation],
    images: Float[Tensor, "B 3 S S"],
    targets: Float[Tensor, "B C"],
    generator: Generator,
) -> tuple[Float[Tensor, "B 3 S S"], Float[Tensor, "B C"]]:
    """Apply augmentations one after the other."""
    for augmentation in policy:
        images, targets = augmentation(images, targets, generator)
    return images, targets


def uniform(count: int, low: float, high: float, generator: Generator) -> Float[Tensor, " B"]:
    """A number from `low` to `high` for each of `count` images."""
    return low + (high - low) * torch.rand(count, generator=generator)


def bernoulli(count: int, probability: float, generator: Generator) -> Tensor:
    """Whether each of `count` images is changed: bool, (B,)."""
    return torch.rand(count, generator=generator) < probability


def beta(count: int, alpha: float, generator: Generator) -> Float[Tensor, " B"]:
    """Numbers of the distribution Beta(alpha, alpha), by Jöhnk's method where it is fast.

    Two gamma variates would do as well, but torch draws those from its global generator only.
    """
    values = torch.empty(count)
    open_ = torch.arange(count)
    while len(open_):
        u, v = (torch.rand(len(open_), generator=generator) ** (1 / alpha) for _ in range(2))
        good = (u + v <= 1) & (u + v > 0)
        values[open_[good]] = (u / (u + v))[good]
        open_ = open_[~good]
    return values


def warp(
    images: Float[Tensor, "B 3 S S"], transforms: Float[Tensor, "B 3 3"], side: int | None = None
) -> Float[Tensor, "B 3 T T"]:
    """Look up each output pixel where a homography of its coordinates, -1..1, leads.

    What lies outside is mirrored at the border.

    Args:
        side: of the output, pixels; as the input's when not given.
    """
    batch, side = len(images), side or images.shape[-1]
    line = (torch.arange(side, dtype=torch.float32) * 2 + 1) / side - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], dim=-1).view(1, -1, 3)  # (1, SS, 3)
    sources = places @ transforms.transpose(1, 2)
    grid = (sources[..., :2] / sources[..., 2:].clamp_min(1e-3)).view(batch, side, side, 2)
    warped = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return warped.clamp(0, 1)
