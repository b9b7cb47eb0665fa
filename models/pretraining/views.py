"""Random views of images: what joint embedding methods learn to see through."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from models.augmentation import warp
from models.augmentation.kinds.blur import Blur
from models.augmentation.kinds.colour import Colour
from models.augmentation.kinds.geometric import Geometric
from models.registry import require_within


@dataclass(frozen=True, kw_only=True)
class Views:
    """Random crops in other colours, at the strengths of SimCLR.

    Chen et al., 2020, appendix A. https://arxiv.org/abs/2002.05709. The hue turns about the grey
    axis of RGB instead of that of HSV, and the order of the changes of colour is fixed.
    """

    crop: float = 0.2  # least share of the area; the paper's 0.08 is for a million images
    flip: float = 0.5  # probability to mirror left and right
    degrees: float = 0.0  # greatest rotation
    colour: float = 0.5  # strength of the changes of colour; 1 is that of the paper for ImageNet
    grey: float = 0.2  # probability
    blur: float = 0.5  # probability
    solarize: float = 0.0  # probability

    def __post_init__(self) -> None:
        require_within(self, "colour", 0, 1)
        require_within(self, "blur", 0, 1)
        _ = self._steps  # refuses the others

    def __call__(
        self, images: Float[Tensor, "B 3 S S"], generator: Generator, side: int | None = None
    ) -> Float[Tensor, "B 3 T T"]:
        """A view of each image.

        Args:
            side: of the views, pixels; that of the images when not given.
        """
        geometric, colour, blur = self._steps
        nothing = torch.empty(len(images), 0)
        views = warp(images, geometric.transforms(len(images), generator), side)
        views, _ = colour(views, nothing, generator)
        return blur(views, nothing, generator)[0] if self.blur else views

    @cached_property
    def _steps(self) -> tuple[Geometric, Colour, Blur]:
        strength = 0.8 * self.colour
        return (
            Geometric(
                crop=self.crop,
                ratio=4 / 3 if self.crop < 1 else 1.0,
                flip=self.flip,
                degrees=self.degrees,
            ),
            Colour(
                brightness=strength,
                contrast=strength,
                saturation=strength,
                hue=0.2 * self.colour,
                probability=0.8,
                grey=self.grey,
                solarize=self.solarize,
            ),
            Blur(probability=self.blur),
        )


def tiles(
    images: Float[Tensor, "B 3 S S"], grid: int, *, gap: int, generator: Generator
) -> Float[Tensor, "B L 3 T T"]:
    """A grid of parts of each image, each moved at random in its cell.

    Args:
        gap: pixels by which a tile is smaller than its cell, so that edges cannot be continued from
            one to the next.
    """
    count, _, side, _ = images.shape
    cell = side // grid
    tile = cell - gap
    offsets = torch.randint(0, gap + 1, (count, grid * grid, 2), generator=generator)
    index = torch.arange(grid * grid)
    corner = torch.stack([index // grid, index % grid], dim=1) * cell + offsets  # (B, L, 2)
    line = torch.arange(tile)
    rows = corner[..., 0, None] + line  # (B, L, T)
    columns = corner[..., 1, None] + line
    flat = rows.unsqueeze(3) * side + columns.unsqueeze(2)  # (B, L, T, T)
    pixels = images.flatten(2).unsqueeze(1).expand(-1, grid * grid, -1, -1)  # (B, L, 3, SS)
    at = flat.flatten(2).unsqueeze(2).expand(-1, -1, 3, -1)
    return pixels.gather(3, at).view(count, grid * grid, 3, tile, tile)


def uncoloured(
    parts: Float[Tensor, "B L 3 T T"], probability: float, generator: Generator
) -> Float[Tensor, "B L 3 T T"]:
    """Parts of some images without colour, all of an image alike.

    Lenses bend colours apart towards the corners, which would tell where a part comes from
    (Doersch et al., 2015, section 3.1; Noroozi & Favaro, 2016, section 4).
    """
    grey = parts.mean(dim=2, keepdim=True).expand_as(parts)
    is_grey = torch.rand(len(parts), generator=generator) < probability
    return torch.where(is_grey.view(-1, 1, 1, 1, 1), grey, parts)


def normalised(parts: Float[Tensor, "B L 3 T T"]) -> Float[Tensor, "B L 3 T T"]:
    """Each part with the same mean and deviation, 0.5 and 0.2: light would tell neighbours."""
    mean = parts.mean(dim=(2, 3, 4), keepdim=True)
    deviation = parts.std(dim=(2, 3, 4), keepdim=True)
    return ((parts - mean) / (deviation + 1e-3) * 0.2 + 0.5).clamp(0, 1)
