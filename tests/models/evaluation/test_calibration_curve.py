"""How often predictions are right that claim a probability."""

import pytest
import torch
from sklearn.calibration import calibration_curve

from models.evaluation.calibration_curve import bin_sums, curve_of, reliability_curve

CHANCE = torch.Generator().manual_seed(0)
CLAIMED = torch.rand(500, generator=CHANCE, dtype=torch.float64)
RIGHT = torch.rand(500, generator=CHANCE) < CLAIMED**2


def test_it_is_the_curve_of_scikit_learn():
    share, claimed = calibration_curve(RIGHT, CLAIMED, n_bins=10)

    curve = reliability_curve(CLAIMED, RIGHT, bins=10)

    assert curve.accuracy.tolist() == pytest.approx(share.tolist())
    assert curve.probability.tolist() == pytest.approx(claimed.tolist())
    assert int(curve.counts.sum()) == 500


def test_the_error_is_the_mean_gap():
    curve = reliability_curve(CLAIMED, RIGHT, bins=15)
    gaps = 0.0
    for low in range(15):
        inside = (low / 15 < CLAIMED) & ((low + 1) / 15 >= CLAIMED)
        gaps += abs(float((CLAIMED[inside] - RIGHT[inside].double()).sum()))

    assert curve.error == pytest.approx(gaps / 500)


def test_certain_and_right_is_no_error_and_certain_and_wrong_is_all():
    sure = torch.ones(4)

    assert reliability_curve(sure, torch.ones(4, dtype=torch.bool)).error == 0
    assert reliability_curve(sure, torch.zeros(4, dtype=torch.bool)).error == 1
    assert reliability_curve(0 * sure, torch.zeros(4, dtype=torch.bool)).error == 0


def test_parts_may_be_summed_up():
    parts = bin_sums(CLAIMED[:100], RIGHT[:100]) + bin_sums(CLAIMED[100:], RIGHT[100:])

    assert curve_of(parts).error == pytest.approx(reliability_curve(CLAIMED, RIGHT).error)
