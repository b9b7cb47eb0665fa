"""Accuracy, and between what it lies."""

import pytest
import torch
from scipy.stats import binomtest, norm

from models.evaluation.intervals import (
    lure_weights,
    normal_quantile,
    skill,
    weighted_accuracy,
    wilson,
)


@pytest.mark.parametrize(("right", "of"), [(0, 10), (3, 10), (10, 10), (480, 512)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_is_that_of_scipy(right, of, confidence):
    expected = binomtest(right, of).proportion_ci(confidence, method="wilson")

    interval = wilson(right / of, float(of), confidence=confidence)

    assert interval.value == right / of
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_quantiles_are_those_of_scipy():
    for p in (0.1, 0.5, 0.9, 0.975):
        assert normal_quantile(p) == pytest.approx(norm.ppf(p), abs=1e-12)


def test_no_trials_have_no_interval():
    with pytest.raises(ValueError, match="needs trials"):
        wilson(0.0, 0.0)


def test_equal_weights_change_nothing():
    right = torch.arange(20) < 15

    interval = weighted_accuracy(right, torch.full((20,), 0.3, dtype=torch.float64))

    assert tuple(interval) == pytest.approx(tuple(wilson(0.75, 20.0)))


def test_images_without_weight_do_not_count():
    right = torch.tensor([True, True, False, False, False])

    interval = weighted_accuracy(right, torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]))

    assert tuple(interval) == pytest.approx(tuple(wilson(2 / 3, 3.0)))
    with pytest.raises(ValueError, match="sum to zero"):
        weighted_accuracy(right, torch.zeros(5))


def test_uniform_picks_all_count_one():
    picks, pool = 6, 10
    propensities = 1 / (pool - torch.arange(picks, dtype=torch.float64))

    assert torch.allclose(lure_weights(propensities, pool), torch.ones(6, dtype=torch.float64))


def test_the_weights_are_those_of_equation_5():
    q, pool = [0.5, 0.1, 0.3], 8
    expected = [
        1 + (8 - 3) / (8 - m) * (1 / ((8 - m + 1) * propensity) - 1)
        for m, propensity in enumerate(q, start=1)
    ]

    weights = lure_weights(torch.tensor(q, dtype=torch.float64), pool)

    assert weights.tolist() == pytest.approx(expected, abs=1e-12)


def test_weighted_picks_are_unbiased_where_plain_ones_are_not():
    generator = torch.Generator().manual_seed(0)
    right = torch.arange(30) % 3 > 0  # 2 of 3
    likes = torch.where(right, 0.25, 1.0).double()  # prefers what is wrong
    plain, weighted = [], []
    for _ in range(2000):
        remaining, picked, q = likes.clone(), [], []
        for _ in range(10):
            chances = remaining / remaining.sum()
            pick = int(torch.multinomial(chances, 1, generator=generator))
            picked.append(pick)
            q.append(float(chances[pick]))
            remaining[pick] = 0
        hits = right[picked].double()
        plain.append(hits.mean())
        weighted.append((hits * lure_weights(torch.tensor(q, dtype=torch.float64), 30)).mean())

    assert torch.stack(plain).mean() < 0.45
    assert torch.stack(weighted).mean() == pytest.approx(2 / 3, abs=0.015)  # 3 standard errors


@pytest.mark.parametrize(
    ("q", "pool", "complaint"), [([0.5, 0.5], 1, "2 images"), ([0.0], 5, "above 0")]
)
def test_impossible_propensities_are_refused(q, pool, complaint):
    with pytest.raises(ValueError, match=complaint):
        lure_weights(torch.tensor(q), pool)


def test_skill_is_what_is_right_beyond_the_most_frequent_class():
    targets = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2, 2])

    assert skill(torch.ones(10, dtype=torch.bool), targets) == 1
    assert skill(targets == 0, targets) == 0
    assert skill(torch.arange(10) < 8, targets) == pytest.approx((0.8 - 0.6) / (1 - 0.6))
    assert skill(torch.zeros(10, dtype=torch.bool), targets) == 0
    assert skill(torch.ones(6, dtype=torch.bool), targets[:6]) == 0
