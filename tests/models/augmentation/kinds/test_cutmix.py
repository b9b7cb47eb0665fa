"""CutMix."""

import pytest
import torch
from torch import Generator

from models.augmentation.kinds.cutmix import Cutmix


def test_the_target_has_the_share_of_the_pixels():
    classes = torch.arange(10)
    images = (classes / 10).view(-1, 1, 1, 1).expand(-1, 3, 20, 20)

    mixed, shares = Cutmix()(images, torch.eye(10), Generator().manual_seed(0))

    values = mixed[:, 0].flatten(1)
    pixels = torch.stack([(values - c / 10).abs().lt(1e-6).float().mean(1) for c in range(10)], 1)
    assert torch.allclose(pixels, shares, atol=1e-5)
    assert (shares.diagonal() < 1).any()


def test_an_impossible_alpha_is_refused():
    with pytest.raises(ValueError, match="alpha"):
        Cutmix(alpha=-1.0)
