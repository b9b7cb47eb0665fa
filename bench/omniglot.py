"""Omniglot: 1,623 handwritten characters, each drawn once by twenty people.

Lake et al., 2015. https://doi.org/10.1126/science.aab3050 The folder has a sheet an alphabet, a row
a character and a column a drawer, and the split of Vinyals et al. (2016) in `splits`.
"""

import zipfile
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CELL, SIDE = 105, 28  # pixels, of a drawing on a sheet and as it is learned from
DRAWERS, TURNS = 20, 4
Part = Literal["train", "val", "test", "background"]
RUNS = 20


class Characters(NamedTuple):
    """Drawings of some characters."""

    images: Tensor  # uint8 (M, 3, S, S), black on white
    targets: Tensor  # the character of each, turns being characters of their own
    names: list[str]  # of the characters


def read_characters(folder: Path, part: Part, *, turns: bool = True) -> Characters:
    """The drawings of a part of the split, as papers have them: also turned by quarters.

    Args:
        part: `background` is all of the thirty alphabets from which nothing is tested.
    """
    names = _background(folder) if part == "background" else _split(folder, part)
    sheets: dict[str, Image.Image] = {}
    rows = []
    for name in names:
        alphabet, _, character = name.partition("/character")
        if alphabet not in sheets:
            (path,) = folder.glob(f"*/{alphabet}.png")
            sheets[alphabet] = Image.open(path).convert("L")
        rows.append(_cut(sheets[alphabet], int(character) - 1))
    pixels = torch.stack(rows)  # (C, 20, S, S)
    counted = range(TURNS if turns else 1)
    turned = torch.cat([pixels.rot90(n, dims=(2, 3)) for n in counted])
    images = turned.flatten(0, 1)[:, None].expand(-1, 3, -1, -1)
    labels = [f"{name}/{90 * n}" for n in counted for name in names] if turns else names
    return Characters(images, torch.arange(len(turned)).repeat_interleave(DRAWERS), labels)


class Run(NamedTuple):
    """Twenty characters of an alphabet, one drawing of each to learn from and one to tell."""

    support: Tensor  # uint8 (20, 3, S, S)
    query: Tensor
    truth: Tensor  # rows of the support


def read_runs(folder: Path) -> list[Run]:
    """The runs within an alphabet of Lake et al. (2015)."""
    with zipfile.ZipFile(folder / "one-shot-runs.zip") as archive:
        return [_run(archive, f"run{number:02}") for number in range(1, RUNS + 1)]


def _run(archive: zipfile.ZipFile, run: str) -> Run:
    pairs = archive.read(f"{run}/class_labels.txt").decode().split()
    items, classes = pairs[::2], pairs[1::2]
    support = sorted(classes)
    truth = torch.tensor([support.index(name) for name in classes])
    drawn, asked = (_small([_read(archive, name) for name in names]) for names in (support, items))
    return Run(drawn, asked, truth)


def _read(archive: zipfile.ZipFile, name: str) -> Image.Image:
    with archive.open(name) as file:
        return Image.open(file).convert("L")


def _small(cells: list[Image.Image]) -> Tensor:
    pixels = [np.asarray(cell.resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for cell in cells]
    return torch.from_numpy(np.stack(pixels))[:, None].expand(-1, 3, -1, -1)


def _split(folder: Path, part: str) -> list[str]:
    return (folder / f"splits/vinyals-{part}.txt").read_text().split()


def _background(folder: Path) -> list[str]:
    """All characters on the sheets: a sheet has a row for each."""
    sheets = sorted((folder / "background").glob("*.png"))
    rows = {path.stem: Image.open(path).height // CELL for path in sheets}
    return [f"{name}/character{n:02}" for name, count in rows.items() for n in range(1, count + 1)]


def _cut(sheet: Image.Image, row: int) -> Tensor:
    """The drawings of a character, small: (20, S, S)."""
    cells = [
        sheet.crop((CELL * n, CELL * row, CELL * (n + 1), CELL * (row + 1))) for n in range(DRAWERS)
    ]
    return _small(cells)[:, 0]
