"""A contact sheet: what a policy makes of one image, side by side, for a person to look at."""

import io
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F

from models.augmentation import Augmentation, apply

FRAME = 2  # pixels of white around a tile; with the black between, some of it is seen beside any


GAP = 2  # pixels of black between two frames


def draw_views(
    images: Float[Tensor, "B 3 S S"],
    policy: Sequence[Augmentation],
    *,
    count: int,
    generator: Generator,
) -> Float[Tensor, "K 3 S S"]:
    """The first image as it is, then `count` views of it.

    Each view is drawn as in training, in a batch of its own: augmentations that mix do it with the
    other images, and sometimes with the image itself.
    """
    targets = torch.eye(len(images))  # nothing here depends on what the others show
    views = [apply(policy, images, targets, generator)[0][0] for _ in range(count)]
    return torch.stack([images[0], *views])


def contact_sheet(tiles: Float[Tensor, "B 3 S S"], *, side: int) -> bytes:
    """Images with values in 0..1 as one PNG: rows from left to right, a thin gap between.

    Args:
        side: pixels of each tile.
    """
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    framed = side + 2 * FRAME
    pitch = framed + GAP
    sheet = torch.zeros(rows * pitch - GAP, columns * pitch - GAP, 3, dtype=torch.uint8)
    for number, tile in enumerate(tiles):
        y, x = number // columns * pitch, number % columns * pitch
        sheet[y : y + framed, x : x + framed] = _framed(tile, side)
    buffer = io.BytesIO()
    Image.fromarray(sheet.numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def _framed(tile: Float[Tensor, "3 S S"], side: int) -> Tensor:
    """uint8, (side, side, 3) with a frame around."""
    if tile.shape[-1] != side:
        tile = F.interpolate(tile[None], size=(side, side), mode="bilinear", antialias=True)[0]
    # What is no number is black: strange options of an augmentation shall be seen, not fail.
    values = F.pad(tile.nan_to_num(0.0).clamp(0, 1), (FRAME,) * 4, value=1.0) * 255
    return values.round().byte().permute(1, 2, 0)
