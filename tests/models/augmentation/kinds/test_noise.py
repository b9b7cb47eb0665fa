"""Noise in every pixel."""

import pytest
import torch
from torch import Generator

from models.augmentation.kinds.noise import Noise


def test_the_noise_is_as_strong_as_was_drawn():
    grey = torch.full((64, 3, 32, 32), 0.5)

    noisy, _ = Noise(deviation=0.1)(grey, torch.ones(64, 1), Generator().manual_seed(0))

    deviations = (noisy - grey).flatten(1).std(dim=1)
    assert deviations.max() < 0.105
    assert deviations.mean() == pytest.approx(0.05, abs=0.01)


def test_a_negative_deviation_is_refused():
    with pytest.raises(ValueError, match="deviation"):
        Noise(deviation=-1.0)
