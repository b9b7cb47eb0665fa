"""Intervals of accuracy over episodes."""

import pytest
import torch
from scipy import stats
from torch import Generator

from models.evaluation.intervals import wilson
from models.metalearning.intervals import (
    difference_over_episodes,
    difference_over_images,
    over_episodes,
    over_images,
    over_labels,
    student_quantile,
)

ACCURACIES = torch.tensor([0.5, 0.7, 0.9, 0.7])


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 29, 30, 31, 500, 99_999])
@pytest.mark.parametrize("probability", [0.5, 0.9, 0.975, 0.995])
def test_the_quantile_of_students_t_is_that_of_scipy(freedom, probability):
    quantile = student_quantile(probability, freedom)

    assert quantile == pytest.approx(stats.t.ppf(probability, freedom), rel=2e-6, abs=1e-9)


@pytest.mark.parametrize(("probability", "freedom"), [(0.975, 0), (0.4, 3), (1.0, 3)])
def test_a_quantile_that_does_not_exist_is_refused(probability, freedom):
    with pytest.raises(ValueError, match="degree of freedom"):
        student_quantile(probability, freedom)


def test_over_episodes_is_what_papers_print():
    value, low, high = over_episodes(ACCURACIES)

    reach = 1.959964 * float(ACCURACIES.std()) / 2
    assert (value, low, high) == pytest.approx((0.7, 0.7 - reach, 0.7 + reach), abs=1e-6)


def test_the_same_episodes_drawn_more_often_narrow_only_the_interval_over_episodes():
    often = over_episodes(ACCURACIES.repeat(100))
    once = over_episodes(ACCURACIES)

    assert (often.high - often.low) < (once.high - once.low) / 9


def test_over_images_is_students_where_shares_are_far_from_the_ends():
    accuracies = 0.5 + 0.01 * torch.randn(1000, generator=Generator().manual_seed(0)).double()

    interval = over_images(accuracies, queries=10**9)

    expected = over_episodes(accuracies)
    assert interval == pytest.approx(expected, abs=1e-5)


def test_where_all_is_right_an_interval_over_images_still_has_a_width():
    interval = over_images(torch.ones(5), queries=25)

    assert interval.high == interval.value == 1
    assert interval.low < wilson(1.0, 25.0).low  # five episodes are worth less than 25 alone


@pytest.mark.parametrize("make", [over_episodes, lambda values: over_images(values, 5)])
def test_one_episode_has_no_interval(make):
    with pytest.raises(ValueError, match="needs two episodes, got 1"):
        make(torch.ones(1))


def episodes_of(effects, count, ways, generator):
    """Episodes of random labels; their accuracy is the mean of the labels' effects and noise."""
    present = torch.zeros(count, len(effects), dtype=torch.bool)
    for row in present:
        row[torch.randperm(len(effects), generator=generator)[:ways]] = True
    noise = 0.05 * torch.randn(count, generator=generator)
    return (present.float() @ effects) / ways + noise, present


def test_over_labels_grows_with_how_labels_differ_not_with_how_few_episodes_were_drawn():
    generator = Generator().manual_seed(0)
    alike, different = torch.full((10,), 0.7), torch.linspace(0.5, 0.9, 10)

    widths = {}
    for name, effects in (("alike", alike), ("different", different)):
        interval = over_labels(*episodes_of(effects, 2000, 3, generator))
        widths[name] = interval.high - interval.low

    standard_error = float(different.std()) / 10**0.5
    assert widths["different"] == pytest.approx(2 * 2.262 * standard_error, rel=0.1)
    assert widths["alike"] < 0.02


def test_over_labels_holds_what_new_labels_do_in_nineteen_of_twenty_cases():
    generator = Generator().manual_seed(1)
    held = 0
    for _ in range(200):
        effects = 0.7 + 0.1 * torch.randn(12, generator=generator)
        interval = over_labels(*episodes_of(effects, 100, 4, generator))
        held += interval.low <= 0.7 <= interval.high

    assert 180 <= held <= 199


def test_labels_that_every_episode_has_cannot_be_left_out():
    assert over_labels(ACCURACIES, torch.ones(4, 5, dtype=torch.bool)) is None
    assert over_labels(ACCURACIES, torch.eye(4, dtype=torch.bool)[:, :2]) is None


def test_a_difference_is_paired():
    hardness = torch.rand(50, generator=Generator().manual_seed(0))
    first, second = 0.1 + hardness / 2, hardness / 2

    for difference in (difference_over_episodes, difference_over_images):
        value, low, high = difference(first, second)

        assert value == pytest.approx(0.1)
        assert high - low < 1e-6
        assert difference(second, first).value == pytest.approx(-0.1)


def test_a_difference_over_few_episodes_is_wider_for_new_images():
    first, second = ACCURACIES, ACCURACIES.flip(0).square()

    here, anywhere = difference_over_episodes(first, second), difference_over_images(first, second)

    assert anywhere.high - anywhere.low > 1.5 * (here.high - here.low)
