"""Characters that nobody owns: a label is three strokes, each drawing of it a little different."""

import io

import torch
from PIL import Image, ImageDraw
from torch import Generator

SIDE, MARGIN = 28, 3  # pixels


def draw_character(label: int, number: int, *, distortion: float = 0.05) -> Image.Image:
    """White with black lines through three points each.

    Args:
        distortion: of the points, in shares of the side.
    """
    strokes = torch.rand(3, 3, 2, generator=Generator().manual_seed(label))
    hand = Generator().manual_seed(1000 * label + number)
    points = (strokes + distortion * torch.randn(strokes.shape, generator=hand)).clamp(0, 1)
    sheet = Image.new("L", (SIDE, SIDE), 255)
    pencil = ImageDraw.Draw(sheet)
    for stroke in (points * (SIDE - 2 * MARGIN) + MARGIN).tolist():
        pencil.line([tuple(point) for point in stroke], fill=0, width=2)
    return sheet


def character_file(label: int, number: int) -> bytes:
    """The same as PNG."""
    buffer = io.BytesIO()
    draw_character(label, number).save(buffer, "PNG")
    return buffer.getvalue()
