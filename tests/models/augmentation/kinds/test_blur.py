"""Blur."""

import pytest
import torch
from torch import Generator
from torchvision.transforms.v2 import functional as tv

from models.augmentation.kinds import blur
from models.augmentation.kinds.blur import Blur

IMAGES = torch.rand(2, 3, 40, 40, generator=Generator().manual_seed(0))
TARGETS = torch.eye(2)


def test_it_is_that_of_torchvision(monkeypatch):
    monkeypatch.setattr(blur, "uniform", lambda n, low, high, _: torch.full((n,), high))

    blurred, _ = Blur(deviation=0.05, probability=1.0)(IMAGES, TARGETS, Generator())

    assert torch.allclose(blurred, tv.gaussian_blur(IMAGES, [13, 13], [2.0, 2.0]), atol=1e-5)


def test_without_luck_an_image_stays_as_it_is():
    blurred, _ = Blur(probability=0.0)(IMAGES, TARGETS, Generator())

    assert torch.allclose(blurred, IMAGES, atol=1e-6)


@pytest.mark.parametrize("options", [{"deviation": 0.0}, {"probability": 2.0}])
def test_what_is_out_of_range_is_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Blur(**options)
