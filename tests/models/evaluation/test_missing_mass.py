"""How likely the next image is of a class without a label."""

import pytest
import torch

from models.evaluation.missing_mass import unseen_mass


def test_it_is_the_share_of_images_that_are_alone_in_their_class():
    mass = unseen_mass(torch.tensor([1, 1, 2, 6]))

    assert mass.value == pytest.approx(0.2)
    variance = (2 * (1 - 0.2) + 2 * 1) / 100  # Esty, 1983
    assert mass.low == pytest.approx(max(0.2 - 1.959964 * variance**0.5, 0))
    assert mass.low <= 0.2 < mass.high


def test_the_only_image_of_a_class_that_was_known_found_none():
    mass = unseen_mass(torch.tensor([1, 1, 2, 6]), torch.tensor([True, False, False, True]))

    assert mass.value == pytest.approx(0.1)


def test_none_alone_leaves_room_for_what_chance_hid():
    few, many = unseen_mass(torch.tensor([5, 5])), unseen_mass(torch.tensor([500, 500]))

    assert few.value == many.value == few.low == 0
    assert few.high > 0.2
    assert many.high < 0.01


def test_no_images_say_nothing():
    with pytest.raises(ValueError, match="no image"):
        unseen_mass(torch.tensor([0, 0]))


def test_the_estimate_is_right_on_average_and_the_interval_nearly_always():
    generator = torch.Generator().manual_seed(0)
    shares = 1 / torch.arange(1, 101, dtype=torch.float64)
    shares /= shares.sum()
    gaps, covered = [], 0
    for _ in range(400):
        sample = torch.multinomial(shares, 150, replacement=True, generator=generator)
        shots = torch.bincount(sample, minlength=100)
        truth = float(shares[shots == 0].sum())
        mass = unseen_mass(shots)
        gaps.append(mass.value - truth)
        covered += mass.low <= truth <= mass.high

    assert sum(gaps) / 400 == pytest.approx(0, abs=0.01)
    assert covered > 0.92 * 400
