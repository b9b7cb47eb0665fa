"""Cutout."""

import pytest
import torch
from torch import Generator

from models.augmentation.kinds.cutout import Cutout

TARGETS = torch.ones(32, 1)


def test_a_square_takes_the_mean_colour_and_nothing_else_changes():
    images = torch.rand(32, 3, 16, 16, generator=Generator().manual_seed(0))

    cut, _ = Cutout(side=0.5, probability=1.0)(images, TARGETS, Generator().manual_seed(0))

    covered = (cut != images).any(dim=1)  # (B, S, S)
    sizes = covered.sum(dim=(1, 2))
    assert sizes.max() == 64
    assert sizes.min() >= 16  # at least a quarter lies inside
    means = images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    assert torch.equal(cut[covered.unsqueeze(1).expand_as(cut)],
                       means[covered.unsqueeze(1).expand_as(cut)])  # fmt: skip


def test_the_probability_says_how_many_are_cut():
    images = torch.rand(32, 3, 16, 16, generator=Generator().manual_seed(0))

    cut, _ = Cutout(probability=0.5)(images, TARGETS, Generator().manual_seed(0))

    changed = int((cut != images).flatten(1).any(dim=1).sum())
    assert 8 <= changed <= 24  # 16 expected, 3 standard deviations


def test_what_is_out_of_range_is_refused():
    with pytest.raises(ValueError, match="side"):
        Cutout(side=1.5)
