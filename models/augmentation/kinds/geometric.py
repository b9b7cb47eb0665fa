"""Crop, flip, rotate, move, scale and tilt."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from models.augmentation import bernoulli, uniform, warp
from models.augmentation.kinds import augmentations
from models.registry import require_within


@augmentations.register
@dataclass(frozen=True, kw_only=True)
class Geometric:
    """Random crops as of Inception, flips, rotations, translations and perspectives in one look-up.

    Crop: Szegedy et al., 2015, section 6. https://arxiv.org/abs/1409.4842
    """

    crop: float = 0.5  # least share of the area that is kept; 1: all of it
    ratio: float = 4 / 3  # greatest ratio of the sides of the crop
    flip: float = 0.5  # probability to mirror left and right
    flip_vertical: float = 0.0
    degrees: float = 10.0  # greatest rotation
    translate: float = 0.0  # greatest shift, as a share of the side
    perspective: float = 0.0  # greatest tilt: how much smaller one edge may be, 0..1

    def __post_init__(self) -> None:
        require_within(self, "crop", 0, 1, exclusive=True)
        if self.ratio < 1:
            raise ValueError(f"ratio must be at least 1, got {self.ratio}")
        for name in ("flip", "flip_vertical", "translate", "perspective"):
            require_within(self, name, 0, 1)

    def __call__(
        self,
        images: Float[Tensor, "B 3 S S"],
        targets: Float[Tensor, "B C"],
        generator: Generator,
    ) -> tuple[Float[Tensor, "B 3 S S"], Float[Tensor, "B C"]]:
        return warp(images, self.transforms(len(images), generator)), targets

    def transforms(self, count: int, generator: Generator) -> Float[Tensor, "B 3 3"]:
        """Where each pixel of `count` changed images comes from."""
        area = uniform(count, self.crop, 1.0, generator)
        stretch = uniform(count, -1.0, 1.0, generator).mul(math.log(self.ratio) / 2).exp()
        width = (area.sqrt() * stretch).clamp_max(1)
        height = (area.sqrt() / stretch).clamp_max(1)
        # The crop may lie anywhere inside; a translation may push it over the border.
        x = uniform(count, -1.0, 1.0, generator) * (1 - width)
        y = uniform(count, -1.0, 1.0, generator) * (1 - height)
        x = x + 2 * uniform(count, -self.translate, self.translate, generator)
        y = y + 2 * uniform(count, -self.translate, self.translate, generator)
        width = torch.where(bernoulli(count, self.flip, generator), -width, width)
        height = torch.where(bernoulli(count, self.flip_vertical, generator), -height, height)
        angle = uniform(count, -self.degrees, self.degrees, generator).deg2rad()
        tilt = self.perspective / 2
        transforms = torch.zeros(count, 3, 3)
        transforms[:, 0, 0], transforms[:, 0, 1] = angle.cos() * width, -angle.sin() * height
        transforms[:, 1, 0], transforms[:, 1, 1] = angle.sin() * width, angle.cos() * height
        transforms[:, 0, 2], transforms[:, 1, 2] = x, y
        transforms[:, 2, 0] = uniform(count, -tilt, tilt, generator)
        transforms[:, 2, 1] = uniform(count, -tilt, tilt, generator)
        transforms[:, 2, 2] = 1
        return transforms
