"""Temperatures and calibration errors."""

import math

import pytest
import torch
from torch.nn import functional as F

from models.heads import calibration
from models.heads.calibration import (
    expected_calibration_error,
    fit_temperature,
    fit_temperatures,
    log_loss,
)


def overconfident(rows, factor, seed=0):
    """Logits whose softmax is `factor` times too sharp for the labels drawn from them."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    return factor * logits, targets


def test_a_temperature_undoes_too_much_confidence():
    scores, targets = overconfident(20_000, factor=4)

    temperature = fit_temperature(scores, targets, expected=1.0)

    assert temperature == pytest.approx(4, rel=0.05)
    assert expected_calibration_error((scores / temperature).softmax(1), targets) < 0.01
    assert expected_calibration_error(scores.softmax(1), targets) > 0.1


def test_the_temperature_is_the_likeliest_under_its_prior():
    scores, targets = overconfident(40, factor=3)

    temperature = fit_temperature(scores, targets, expected=2.0)

    def cost(log):
        loss = F.cross_entropy(scores / math.exp(log), targets, reduction="sum")
        return float(loss) + (log - math.log(2)) ** 2 / (2 * calibration.TRUST**2)

    scipy = pytest.importorskip("scipy.optimize")
    best = scipy.minimize_scalar(cost, bounds=(-2, 4), method="bounded", options={"xatol": 1e-9})
    assert math.log(temperature) == pytest.approx(best.x, abs=1e-4)


def test_without_rows_the_temperature_is_the_expected_one():
    alone = torch.tensor([[-math.inf, 0.0], [0.0, -math.inf]])

    assert fit_temperature(alone, torch.tensor([0, 1]), expected=0.7) == 0.7
    assert math.isnan(log_loss(alone, torch.tensor([0, 1])))


def test_rows_that_cannot_know_their_class_do_not_count():
    scores, targets = overconfident(50, factor=1)
    blind = scores.clone()
    blind[torch.arange(20), targets[:20]] = -math.inf

    assert log_loss(blind, targets) == log_loss(scores[20:], targets[20:])
    assert fit_temperature(blind, targets, 1.0) == fit_temperature(scores[20:], targets[20:], 1.0)


def test_calibration_error_of_a_case_by_hand():
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    targets = torch.tensor([0, 1, 1])

    # Bin of 0.9: 1 of 2 right, 0.8 apart in sum; bin of 0.6: right, 0.4 apart.
    assert expected_calibration_error(probabilities, targets) == pytest.approx((0.8 + 0.4) / 3)


def test_certainty_that_is_right_has_no_error():
    assert expected_calibration_error(torch.eye(4), torch.arange(4)) == 0
    assert expected_calibration_error(torch.eye(4), torch.arange(4).flip(0)) == 1


def test_in_the_log_loss_classes_count_alike_however_many_rows_they_have():
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    targets = torch.tensor([0, 0, 0, 1])

    often = -logits[0].log_softmax(dim=0)[0]
    once = -logits[3].log_softmax(dim=0)[1]
    assert log_loss(logits, targets) == pytest.approx(float(often + once) / 2)


def test_many_temperatures_at_once_are_those_of_one_by_one():
    sets = [overconfident(30, factor, seed=factor) for factor in (1, 3, 9)]
    targets = sets[0][1]
    scores = torch.stack([scores for scores, _ in sets])

    together = fit_temperatures(scores, targets, expected=1.5)

    alone = [fit_temperature(part, targets, expected=1.5) for part in scores]
    assert together.tolist() == pytest.approx(alone, rel=1e-6)
