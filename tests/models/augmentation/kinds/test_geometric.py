"""Crop, flip, rotate, move, scale and tilt."""

import pytest
import torch
from torch import Generator
from torchvision.transforms.v2 import functional as tv

from models.augmentation.kinds.geometric import Geometric

STILL = {"crop": 1.0, "ratio": 1.0, "flip": 0.0, "degrees": 0.0}
TARGETS = torch.eye(2)


def picture(side: int = 32) -> torch.Tensor:
    """A smooth picture, so that interpolation hardly matters; the same twice."""
    line = torch.linspace(0, 3, side)
    image = torch.stack([line.sin().outer(line.cos()), line.outer(line) / 9, line.outer(1 - line)])
    return image.sub(image.min()).div(image.max() - image.min()).expand(2, -1, -1, -1)


def changed(**options: float) -> torch.Tensor:
    return Geometric(**(STILL | options))(picture(), TARGETS, Generator().manual_seed(0))[0]


def test_without_strength_nothing_changes():
    assert torch.allclose(changed(), picture(), atol=1e-5)


def test_flips_mirror():
    assert torch.allclose(changed(flip=1.0), picture().flip(3), atol=1e-5)
    assert torch.allclose(changed(flip_vertical=1.0), picture().flip(2), atol=1e-5)


def test_rotation_is_that_of_torchvision(monkeypatch):
    monkeypatch.setattr(
        "models.augmentation.kinds.geometric.uniform",
        lambda n, low, high, _: torch.full((n,), high),
    )

    turned = changed(degrees=20.0)[:, :, 8:24, 8:24]  # without what was mirrored at the border

    expected = tv.rotate(picture(), 20.0, interpolation=tv.InterpolationMode.BILINEAR)
    assert torch.allclose(turned, expected[:, :, 8:24, 8:24], atol=1e-2)


def test_a_crop_shows_a_part_of_the_picture_enlarged():
    ramp = torch.linspace(0, 1, 64).expand(64, 3, 64, 64)

    cropped, _ = Geometric(**STILL | {"crop": 0.25})(
        ramp, torch.ones(64, 1), Generator().manual_seed(0)
    )

    extent = cropped[:, 0, 0, -1] - cropped[:, 0, 0, 0]
    assert extent.min() >= 0.48  # at least half the side
    assert extent.max() <= 1.0
    assert extent.std() > 0.05


def test_a_tilt_bends_no_line_but_changes_the_picture():
    tilted = changed(perspective=0.5)

    assert not torch.allclose(tilted, picture(), atol=1e-2)
    assert torch.isfinite(tilted).all()


@pytest.mark.parametrize(
    "options", [{"crop": 0.0}, {"crop": 1.5}, {"ratio": 0.5}, {"flip": 2.0}, {"perspective": -1.0}]
)
def test_what_is_out_of_range_is_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Geometric(**options)
