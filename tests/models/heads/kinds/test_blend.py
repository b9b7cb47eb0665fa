"""Mahalanobis distance and ridge regression together."""

import pytest
import torch
from torch.nn import functional as F

from models.heads.kinds.blend import Blend
from models.heads.kinds.mahalanobis import Mahalanobis
from models.heads.kinds.ridge import Ridge


def normal(rows, dim, seed):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


TARGETS = torch.arange(40) % 4
POINTS = F.normalize(normal(4, 12, 0)[TARGETS] + 1.5 * normal(40, 12, 1), dim=1).double()
QUERIES = F.normalize(normal(9, 12, 2), dim=1).double()


def log_odds(head):
    fitted = head.fit(POINTS, TARGETS, 4)
    return fitted.scores(QUERIES) / fitted.temperature


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_it_is_the_weighted_sum_of_the_log_odds_of_both(share):
    blend = Blend(centered=False, share=share, temperature=1.0)

    expected = share * log_odds(Mahalanobis(centered=False)) + (1 - share) * log_odds(
        Ridge(centered=False)
    )

    difference = log_odds(blend) - expected
    assert difference.std(dim=1).max() < 1e-9, "but for what is the same for all classes"


def test_with_few_shots_both_count_and_with_many_the_better_one():
    few, many = TARGETS[:8], (torch.arange(2000) % 4)
    # Two directions matter and the images vary along the others, which distances are told of.
    wide = torch.cat([0.05 * normal(2000, 2, 3), normal(2000, 10, 4)], dim=1)
    points = F.normalize(F.pad(0.2 * normal(4, 2, 5), (0, 10))[many] + wide, dim=1)

    def fit(number):
        return Blend(centered=False).fit(points[:number], many[:number], 4)

    assert 0.1 < fit(len(few)).options.share < 0.9
    after = fit(2000)
    better = min(after.losses, key=after.losses.get)
    assert after.options.share == pytest.approx(float(better == "mahalanobis"), abs=0.01)
    assert after.loss < min(after.losses.values()) + 0.01


def test_with_one_shot_each_both_count_alike():
    points, queries = POINTS[:4], QUERIES
    blend = Blend(centered=False).fit(points, TARGETS[:4], 4)
    parts = [
        head.fit(points, TARGETS[:4], 4)
        for head in (Mahalanobis(centered=False), Ridge(centered=False))
    ]

    expected = sum(part.scores(queries) / part.temperature for part in parts) / 2
    assert torch.allclose(blend.probabilities(queries), expected.softmax(dim=1), atol=1e-9)
    confidences = [float(part.probabilities(queries).amax(dim=1).mean()) for part in parts]
    assert confidences[0] == pytest.approx(confidences[1], rel=0.2), "neither drowns the other"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.5}, "share must be from 0 to 1, got 1.5"),
        ({"penalty": 0.0}, "penalty must be from 1e-06"),
        ({"distance_temperature": -1.0}, "temperature must be from 0.001"),
    ],
)
def test_options_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Blend(**options)
