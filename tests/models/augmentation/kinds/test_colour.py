"""Brightness, contrast, saturation and hue."""

import pytest
import torch
from torch import Generator
from torchvision.transforms.v2 import functional as tv

from models.augmentation.kinds import colour
from models.augmentation.kinds.colour import Colour

NONE = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
IMAGES = torch.rand(2, 3, 8, 8, generator=Generator().manual_seed(0)) * 0.5 + 0.2
TARGETS = torch.eye(2)


@pytest.fixture
def strongest(monkeypatch):
    """Every draw is the highest that is allowed."""
    monkeypatch.setattr(colour, "uniform", lambda n, low, high, _: torch.full((n,), high))

    def apply(**options: float) -> torch.Tensor:
        return Colour(**(NONE | options))(IMAGES, TARGETS, Generator())[0]

    return apply


def test_without_strength_nothing_changes(strongest):
    assert torch.allclose(strongest(), IMAGES, atol=1e-6)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_each_is_that_of_torchvision(strongest, name):
    expected = getattr(tv, f"adjust_{name}")(IMAGES, 1.25)

    # torchvision takes the luma factors with four digits.
    assert torch.allclose(strongest(**{name: 0.25}), expected, atol=1e-3)


def test_a_third_of_the_circle_exchanges_the_primary_colours(strongest):
    turned = strongest(hue=1 / 3)

    assert torch.allclose(turned, IMAGES[:, [2, 0, 1]], atol=1e-5)


def test_grey_has_no_hue(monkeypatch):
    monkeypatch.setattr(colour, "uniform", lambda n, low, high, _: torch.full((n,), high))
    grey = torch.full((1, 3, 4, 4), 0.4)

    turned, _ = Colour(**NONE | {"hue": 0.2, "saturation": 0.5})(grey, TARGETS[:1], Generator())

    assert torch.allclose(turned, grey, atol=1e-5)


@pytest.mark.parametrize("options", [{"brightness": 1.5}, {"contrast": -0.1}, {"hue": 0.6}])
def test_what_is_out_of_range_is_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Colour(**options)


def test_some_images_keep_their_colours():
    many = IMAGES[:1].expand(400, 3, 8, 8)

    changed, _ = Colour(brightness=0.5, probability=0.25)(
        many, torch.ones(400, 1), Generator().manual_seed(0)
    )

    unchanged = (changed - many).abs().amax(dim=(1, 2, 3)) < 1e-6
    assert 0.7 < unchanged.float().mean() < 0.8


def test_some_images_lose_their_colours():
    images = torch.rand(100, 3, 8, 8, generator=Generator().manual_seed(1))

    changed, _ = Colour(**NONE, grey=0.5)(images, torch.ones(100, 1), Generator().manual_seed(0))

    grey = (changed - changed.mean(dim=1, keepdim=True)).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert 30 < grey.sum() < 70


def test_solarizing_inverts_what_is_bright():
    changed, _ = Colour(**NONE, solarize=1.0)(IMAGES, TARGETS, Generator().manual_seed(0))

    assert torch.allclose(changed, torch.where(IMAGES >= 0.5, 1 - IMAGES, IMAGES), atol=1e-5)
