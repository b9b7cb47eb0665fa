"""Mixup."""

import pytest
import torch
from torch import Generator

from models.augmentation.kinds.mixup import Mixup


def test_images_and_targets_are_mixed_alike():
    # The image of class c is the constant c / 10, so its value tells the mixture.
    classes = torch.arange(10)
    images = (classes / 10).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)

    mixed, shares = Mixup(alpha=1.0)(images, torch.eye(10), Generator().manual_seed(0))

    assert torch.allclose(mixed[:, 0, 0, 0], shares @ (classes / 10))
    assert (shares.argmax(dim=1) == classes).all()
    assert (shares.diagonal() < 1).any()


def test_an_impossible_alpha_is_refused():
    with pytest.raises(ValueError, match="alpha"):
        Mixup(alpha=1e-6)
