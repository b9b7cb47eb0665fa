"""Encoders that look at parts of images."""

import copy

import torch
from jaxtyping import Float
from torch import Tensor

from models.encoders import Encoder, is_transformer
from models.pretraining import Unsuited

LARGE = 96  # pixels from which on an image is cut into three by three, by default


SMALLEST = 8  # pixels of a tile


GAP = 0.15  # of a cell


def check_tiles(encoder: Encoder, method: str, grid: int) -> int:
    """How many tiles a side of an image is cut into.

    Args:
        grid: as asked for; 0: as suits the size of the images.

    Raises:
        Unsuited: the encoder takes images of one size only, or the tiles would be too small.
    """
    if is_transformer(encoder):
        raise Unsuited(
            f"{method} looks at parts of images, and a transformer takes whole ones only: use "
            "rotation, mae, simclr, moco, byol, npid, triplet, deepcluster or swav"
        )
    side = encoder.preprocessing.crop
    grid = grid or (3 if side >= LARGE else 2)
    cell = side // grid
    tile = cell - round(GAP * cell)
    if tile < SMALLEST or not _takes(encoder, tile):
        raise Unsuited(
            f"{method} would cut images of {side} pixels into {grid} by {grid} tiles of {tile}, "
            "which is too small for this encoder: use rotation, mae, simclr, moco, byol, npid, "
            "triplet, deepcluster or swav"
        )
    return grid


def _takes(encoder: Encoder, side: int) -> bool:
    """Whether something is left of images of this size at the end of the encoder."""
    encoder = copy.deepcopy(encoder).eval()
    try:
        with torch.no_grad():
            encoder.features(torch.zeros(1, 3, side, side, device=encoder.mean.device))
    except RuntimeError:
        return False
    return True


def gap_of(images: Tensor, grid: int) -> int:
    """Pixels by which tiles are smaller than their cells."""
    return round(GAP * (images.shape[-1] // grid))


def embed_parts(encoder: Encoder, parts: Float[Tensor, "B L 3 T T"]) -> Float[Tensor, "B L D"]:
    """Features of each part."""
    return encoder.features(parts.flatten(0, 1)).view(*parts.shape[:2], -1)
