"""Omniglot: 1,623 handwritten characters, each drawn once by twenty people.

Lake et al., 2015. https://doi.org/10.1126/science.aab3050 The folder has a sheet an alphabet, a row
a character and a column a drawer, and the split of Vinyals et al. (2016) in `splits`.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CELL, SIDE = 105, 28  # pixels, of a drawing on a sheet and as it is learned from
DRAWERS, TURNS = 20, 4
Part = Literal["train", "val", "test"]


class Characters(NamedTuple):
    """Drawings of some characters."""

    images: Tensor  # uint8 (M, 3, S, S), black on white
    targets: Tensor  # the character of each, turns being characters of their own
    names: list[str]  # of the characters


def read_characters(folder: Path, part: Part, *, turns: bool = True) -> Characters:
    """The drawings of a part of the split, as papers have them: also turned by quarters."""
    names = (folder / f"splits/vinyals-{part}.txt").read_text().split()
    sheets: dict[str, Image.Image] = {}
    rows = []
    for name in names:
        alphabet, _, character = name.partition("/character")
        if alphabet not in sheets:
            (path,) = folder.glob(f"*/{alphabet}.png")
            sheets[alphabet] = Image.open(path).convert("L")
        rows.append(_cut(sheets[alphabet], int(character) - 1))
    pixels = torch.from_numpy(np.stack(rows))  # (C, 20, S, S)
    counted = range(TURNS if turns else 1)
    turned = torch.cat([pixels.rot90(n, dims=(2, 3)) for n in counted])
    images = turned.flatten(0, 1)[:, None].expand(-1, 3, -1, -1)
    labels = [f"{name}/{90 * n}" for n in counted for name in names] if turns else names
    return Characters(images, torch.arange(len(turned)).repeat_interleave(DRAWERS), labels)


def _cut(sheet: Image.Image, row: int) -> np.ndarray:
    """The drawings of a character, small."""
    cells = [
        sheet.crop((CELL * n, CELL * row, CELL * (n + 1), CELL * (row + 1))) for n in range(DRAWERS)
    ]
    small = [cell.resize((SIDE, SIDE), Image.Resampling.LANCZOS) for cell in cells]
    return np.stack([np.asarray(cell) for cell in small])
