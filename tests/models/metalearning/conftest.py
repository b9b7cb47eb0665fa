"""Characters to learn from."""

import pytest
import torch
from torch import Tensor

from tests.characters import SIDE, draw_character

DISTORTION = 0.08  # so that it is not easy


@pytest.fixture(scope="session")
def characters():
    """Draws some images each of some labels: uint8 (M, 3, S, S), and the label of each."""

    def draw(labels: int, images: int) -> tuple[Tensor, Tensor]:
        sheets = [
            draw_character(label, number, distortion=DISTORTION)
            for label in range(labels)
            for number in range(images)
        ]
        pixels = [torch.tensor(list(sheet.tobytes()), dtype=torch.uint8) for sheet in sheets]
        values = torch.stack(pixels).view(-1, 1, SIDE, SIDE).expand(-1, 3, -1, -1)
        return values.clone(), torch.arange(labels).repeat_interleave(images)

    return draw
