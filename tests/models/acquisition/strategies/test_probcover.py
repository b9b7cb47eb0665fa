"""ProbCover."""

import torch

from models.acquisition import Pool
from models.acquisition.strategies.probcover import ProbCover
from tests.models.acquisition.naive import distances, facility, unit


def test_the_picks_are_those_of_the_naive_greedy_algorithm():
    points = unit(310, 4)
    pool = Pool(points, torch.arange(300), None, labeled=torch.arange(300, 310))

    picks, scores, _ = ProbCover(radius=0.4).rank(pool, 40)

    within = (distances(points[:300], points[:300]) <= 0.4).double()
    reached = (distances(points[:300], points[300:]) <= 0.4).double()
    expected, shares = facility(within, reached, 40)
    assert picks.tolist() == expected
    assert torch.allclose(scores.double(), shares, atol=1e-6)


def test_the_radius_is_the_largest_that_keeps_balls_pure():
    # Two tight clusters that are 1.41 apart: balls of 1.4 are pure, of 1.5 not.
    points = torch.nn.functional.normalize(torch.eye(8)[[0] * 30 + [1] * 30] + 0.002 * unit(60, 8))
    pool = Pool(points, torch.arange(60), None)

    assert abs(ProbCover()._pure_radius(pool) - 1.4) < 1e-9
    picks, _, _ = ProbCover().rank(pool, 2)
    assert {int(pick) // 30 for pick in picks} == {0, 1}
