"""TrivialAugment."""

from typing import Any

import pytest
import torch
from torch import Generator

from models.augmentation.kinds import trivialaugment
from models.augmentation.kinds.trivialaugment import WIDE, TrivialAugment

TARGETS = torch.ones(400, 1)


def draw_arguments(monkeypatch, side: int = 64) -> dict[str, Any]:
    """What is drawn for 400 images: names, strengths and scales."""
    arguments: dict[str, Any] = {}

    def look(images, names, strengths, scales, generator):
        arguments.update(names=names, strengths=strengths, scales=scales)
        return images

    monkeypatch.setattr(trivialaugment, "operate", look)
    TrivialAugment()(torch.zeros(400, 3, side, side), TARGETS, Generator().manual_seed(0))
    return arguments


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("rotate", 0.0, 135.0),
        ("shear-y", 0.0, 0.99),
        ("contrast", 0.01, 2.0),
        ("posterize", 8.0, 2.0),
        ("solarize", 256.0, 0.0),
    ],
)
def test_the_ranges_are_the_wide_ones(name, least, most):
    assert (WIDE[name].at(0.0), WIDE[name].at(1.0)) == (least, most)


@pytest.mark.parametrize("side", [64, 224])
def test_a_translation_is_by_32_pixels_at_most(monkeypatch, side):
    scales = draw_arguments(monkeypatch, side)["scales"]

    assert scales["translate-x"].at(1.0) * side == pytest.approx(32)
    assert scales["translate-y"].at(1.0, mirrored=True) * side == pytest.approx(-32)


def test_operations_and_31_strengths_are_drawn_evenly_and_apart(monkeypatch):
    arguments = draw_arguments(monkeypatch)

    counts = [arguments["names"].count(name) for name in set(arguments["names"])]
    assert len(counts) == 14
    assert min(counts) >= 13  # 29 expected, 3 standard deviations
    assert {round(strength * 30, 6) for strength in arguments["strengths"]} == set(range(31))
    rotations = [
        s for s, n in zip(arguments["strengths"], arguments["names"], strict=True) if n == "rotate"
    ]
    assert len(set(rotations)) > 10


def test_an_image_is_changed_once(monkeypatch):
    monkeypatch.setattr(trivialaugment, "FOURTEEN", ("autocontrast", "solarize"))
    monkeypatch.setattr(trivialaugment, "LEVELS", 2)
    pixels = torch.arange(100, 164, dtype=torch.uint8).view(8, 8).expand(400, 3, 8, 8)

    changed, _ = TrivialAugment()(pixels.float() / 255, TARGETS, Generator().manual_seed(0))

    # Unchanged at solarize 0, inverted at solarize 1, the whole range by autocontrast,
    # whose kernel rounds down.
    ends = {(int(i.min() * 255 + 0.5), int(i.max() * 255 + 0.5)) for i in changed}
    assert ends == {(100, 163), (92, 155), (0, 254)}
