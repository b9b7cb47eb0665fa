"""UHerding."""

import pytest
import torch

from models.acquisition import Pool
from models.acquisition.strategies.uherding import UHerding
from tests.models.acquisition.naive import classify, distances, herding, margins, unit


@pytest.mark.parametrize("sigma", [None, 0.7])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_picks_are_those_of_the_naive_greedy_algorithm(sigma, temperature):
    points = unit(310, 8)
    labeled = torch.arange(300, 310)
    pool = Pool(points, torch.arange(300), classify, labeled, labeled % 4)

    picks, scores, _ = UHerding(sigma=sigma, temperature=temperature).rank(pool, 40)

    between = distances(points[labeled], points[labeled]) + 9 * torch.eye(10)
    weights = margins(classify(points[:300], temperature=0.1 * temperature))
    width = sigma or float(between.min())
    expected, gains = herding(points[:300], points[labeled], 40, width, weights)
    assert picks.tolist() == expected
    assert torch.allclose(scores.double(), gains, atol=1e-6)


def test_with_certain_and_uncertain_images_far_apart_only_the_uncertain_are_picked():
    certain, doubtful = torch.eye(6)[0], torch.tensor([1.0, 1, 0, 0, 0, 0]) / 2**0.5
    points = torch.cat([certain.expand(50, 6), doubtful.expand(3, 6)])

    picks, _, _ = UHerding().rank(Pool(points, torch.arange(53), classify), 1)

    assert picks.tolist() == [50]
