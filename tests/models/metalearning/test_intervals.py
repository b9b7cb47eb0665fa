"""Intervals of accuracy over episodes."""

import pytest
import torch
from scipy import stats
from torch import Generator

from models.evaluation.intervals import wilson
from models.metalearning.intervals import (
    Separate,
    difference_over_episodes,
    difference_over_images,
    over_episodes,
    over_images,
    over_labels,
    student_quantile,
)

ACCURACIES = torch.tensor([0.5, 0.7, 0.9, 0.7])


def separate(recalls: torch.Tensor, labels: torch.Tensor | None = None) -> Separate:
    """Episodes that share no image, a row each; of the same labels unless these are said."""
    episodes, ways = recalls.shape
    if labels is None:
        labels = torch.arange(ways).repeat(episodes, 1)
    numbers = torch.arange(episodes).repeat_interleave(ways)
    return Separate(recalls.flatten(), numbers, labels.flatten())


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
    recalls = 0.5 + 0.01 * torch.randn(1000, 3, generator=Generator().manual_seed(0)).double()

    interval = over_images(separate(recalls), queries=10**9)

    assert interval == pytest.approx(over_episodes(recalls.mean(dim=1)), abs=1e-5)


def test_how_labels_differ_is_no_doubt_about_new_images_of_them():
    generator = Generator().manual_seed(0)
    labels = torch.stack([torch.randperm(10, generator=generator)] * 20).view(40, 5)
    noise = 0.02 * torch.randn(40, 5, generator=generator)
    alike, different = torch.full((10,), 0.5), torch.linspace(0.2, 0.8, 10)

    first = over_images(separate(alike[labels] + noise, labels), queries=10**6)
    second = over_images(separate(different[labels] + noise, labels), queries=10**6)

    assert second == pytest.approx(first, abs=1e-6)
    # 38 degrees of freedom: each label's own mean takes a twentieth of what 40 episodes have.
    residuals = noise - torch.zeros(10).index_add(0, labels.flatten(), noise.flatten())[labels] / 20
    error = float(residuals.mean(dim=1).square().sum() / 38 / 40) ** 0.5
    assert first.high - first.low == pytest.approx(2 * 2.0244 * error, rel=0.01)


def test_where_all_is_right_an_interval_over_images_still_has_a_width():
    interval = over_images(separate(torch.ones(5, 2)), queries=25)

    assert interval.high == interval.value == 1
    assert interval.low < wilson(1.0, 25.0).low  # five episodes are worth less than 25 alone


@pytest.mark.parametrize(
    "make", [over_episodes, lambda values: over_images(separate(values[None]), 5)]
)
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
        accuracies, present = episodes_of(effects, 2000, 3, generator)
        interval = over_labels(accuracies, present, 10**6)
        widths[name] = interval.high - interval.low

    standard_error = float(different.std()) / 10**0.5
    assert widths["different"] == pytest.approx(2 * 2.262 * standard_error, rel=0.1)
    assert widths["alike"] < 0.02


def test_over_labels_holds_what_new_labels_do_in_nineteen_of_twenty_cases():
    generator = Generator().manual_seed(1)
    held = 0
    for _ in range(200):
        effects = 0.7 + 0.1 * torch.randn(12, generator=generator)
        accuracies, present = episodes_of(effects, 100, 4, generator)
        interval = over_labels(accuracies, present, 10**6)
        held += interval.low <= 0.7 <= interval.high

    assert 180 <= held <= 199


def test_labels_that_every_episode_has_cannot_be_left_out():
    assert over_labels(ACCURACIES, torch.ones(4, 5, dtype=torch.bool), 9) is None
    assert over_labels(ACCURACIES, torch.eye(4, dtype=torch.bool)[:, :2], 9) is None


def test_where_all_labels_are_right_an_interval_over_labels_still_has_a_width():
    _, present = episodes_of(torch.ones(5), 50, 2, Generator().manual_seed(0))

    interval = over_labels(torch.ones(50), present, images=60)

    assert interval is not None
    assert interval.value == interval.high == 1
    assert 0.8 < interval.low < wilson(1.0, 60.0).low


def test_a_difference_is_paired():
    hardness = torch.rand(50, generator=Generator().manual_seed(0))
    first, second = 0.1 + hardness / 2, hardness / 2

    value, low, high = difference_over_episodes(first, second)

    assert value == pytest.approx(0.1)
    assert high - low < 1e-6
    assert difference_over_episodes(second, first).value == pytest.approx(-0.1)


def test_a_difference_over_few_episodes_is_wider_for_new_images():
    differences = torch.tensor([0.1, -0.1, 0.2])

    here = difference_over_episodes(differences, torch.zeros(3))
    anywhere = difference_over_images(separate(differences[:, None]))

    assert anywhere.value == pytest.approx(here.value)
    assert (anywhere.high - anywhere.low) / (here.high - here.low) == pytest.approx(
        4.3027 / 1.96, rel=1e-4
    )
