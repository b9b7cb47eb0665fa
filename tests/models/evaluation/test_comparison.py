"""Whether one model is better than another on the same images."""

import pytest
import torch

from models.evaluation.comparison import _chance_of_loss, compare

TARGETS = torch.arange(200) % 4


def right(share: float) -> torch.Tensor:
    return (torch.arange(200) % 100 < 100 * share).float()


def test_what_is_clearly_better_is_promoted():
    verdict = compare(right(0.9), right(0.6), TARGETS)

    assert verdict.better
    assert verdict.probability > 0.99
    assert verdict.accuracy == pytest.approx(0.9)
    assert verdict.before == pytest.approx(0.6)


def test_the_same_is_not_better():
    verdict = compare(right(0.7), right(0.7), TARGETS)

    assert not verdict.better
    assert verdict.probability == pytest.approx(0.5)


def test_a_difference_of_one_image_proves_nothing():
    better = right(0.7).clone()
    better[99] = True

    verdict = compare(better, right(0.7), TARGETS)

    assert not verdict.better
    assert 0.5 < verdict.probability < 0.9


def test_a_gain_that_costs_a_class_dearly_is_refused():
    before = (TARGETS == 3).float()
    candidate = 1 - before

    verdict = compare(candidate, before, TARGETS)

    assert verdict.probability > 0.99
    assert not verdict.better
    assert "lose 100 points" in verdict.reason


@pytest.mark.parametrize(("lost", "of", "refused"), [(1, 5, False), (4, 20, True)])
def test_a_class_loses_only_what_its_images_prove(lost, of, refused):
    targets = torch.tensor([0] * of + [1] * 100)
    before = torch.tensor([1.0] * of + [0.0] * 100)
    candidate = torch.tensor([0.0] * lost + [1.0] * (of - lost) + [1.0] * 100)

    verdict = compare(candidate, before, targets)

    assert verdict.worst_recall_loss == pytest.approx(0.2)
    assert verdict.better is not refused
    assert ("lose 20 points" in verdict.reason) is refused


def test_of_many_classes_one_may_seem_to_lose_by_chance():
    """Four images of twenty: proof in one class of two, not in one of ten."""

    def lose_four(classes):
        targets = torch.arange(classes).repeat_interleave(20)
        candidate, before = torch.ones(20 * classes), torch.zeros(20 * classes)
        before[:20] = 1.0
        candidate[:4] = 0.0
        return compare(candidate, before, targets)

    assert "lose 20 points" in lose_four(2).reason
    assert lose_four(10).better


def test_five_images_that_all_lose_a_little_prove_nothing_about_one_class_of_ten():
    targets = torch.arange(10).repeat_interleave(5)
    before, candidate = torch.full((50,), 0.5), torch.ones(50)
    before[:5], candidate[:5] = 1.0, torch.tensor([2, 2, 1, 2, 2]) / 3

    verdict = compare(candidate, before, targets)

    assert verdict.worst_recall_loss > 0.3
    assert verdict.better


def test_chance_alone_seldom_proves_a_loss():
    """The level of the test holds for any number of images, fractions of them included."""
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(300):
        gains = torch.randint(-3, 4, (6,), generator=generator) / 3
        refused += _chance_of_loss(gains, generator) <= 0.05

    assert refused <= 0.08 * 300


def test_the_probability_is_that_of_the_normal_approximation():
    # 12 images gained and 6 lost of 200: the mean is 6 and the variance 18 - 36 / 200.
    candidate, before = torch.zeros(200), torch.zeros(200)
    candidate[:12] = True
    before[12:18] = True

    verdict = compare(candidate, before, TARGETS)

    expected = float(torch.distributions.Normal(6.0, 17.82**0.5).cdf(torch.tensor(0.0)))
    assert verdict.probability == pytest.approx(1 - expected, abs=0.03)
