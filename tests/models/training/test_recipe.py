"""How to train: options, and the learning rate over time."""

import math

import pytest

from models.training.recipe import Recipe, rate_at


def test_one_cycle_rises_then_falls():
    assert rate_at("one_cycle", 0.0) == pytest.approx(1 / 25)
    assert rate_at("one_cycle", 0.125) == pytest.approx((1 + 1 / 25) / 2)
    assert rate_at("one_cycle", 0.25) == pytest.approx(1)
    assert rate_at("one_cycle", 1.0) == pytest.approx(1e-4)


def test_cosine_warms_up_then_falls():
    assert rate_at("cosine", 0.0) == pytest.approx(1 / 25)
    assert rate_at("cosine", 0.05) == pytest.approx(1)
    assert rate_at("cosine", 0.525) == pytest.approx(0.5)
    assert rate_at("cosine", 1.0) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    "options",
    [{"epochs": -1}, {"batch_size": 0}, {"rate": -0.1}, {"rate": math.inf}, {"ema_decay": 1.0},
     {"clip_norm": -1.0}, {"weight_decay": math.nan}, {"label_smoothing": 1.0}],
)  # fmt: skip
def test_an_impossible_recipe_is_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Recipe(**options)
