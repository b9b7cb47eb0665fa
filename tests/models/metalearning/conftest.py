"""Characters that are drawn: a label is three strokes, an image a small distortion of them."""

import pytest
import torch
from PIL import Image, ImageDraw
from torch import Generator, Tensor

SIDE = 28  # pixels


@pytest.fixture(scope="session")
def characters():
    """Draws some images each of some labels: uint8 (M, 3, S, S), and the label of each."""

    def draw(labels: int, images: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        generator = Generator().manual_seed(seed)
        pixels = [
            _drawing(strokes + 0.08 * torch.randn(strokes.shape, generator=generator))
            for strokes in torch.rand(labels, 3, 3, 2, generator=generator)
            for _ in range(images)
        ]
        return torch.stack(pixels), torch.arange(labels).repeat_interleave(images)

    return draw


def _drawing(strokes: Tensor) -> Tensor:
    """White with black lines through three points each, given as shares of the side."""
    sheet = Image.new("L", (SIDE, SIDE), 255)
    pencil = ImageDraw.Draw(sheet)
    for points in strokes.clamp(0, 1) * (SIDE - 6) + 3:
        pencil.line([tuple(point) for point in points.tolist()], fill=0, width=2)
    values = torch.tensor(list(sheet.tobytes()), dtype=torch.uint8).view(1, SIDE, SIDE)
    return values.expand(3, -1, -1).clone()
