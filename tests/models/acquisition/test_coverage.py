"""Covering a pool greedily."""

import math

import pytest
import torch

from models.acquisition import Pool
from models.acquisition.coverage import (
    Herding,
    ball,
    gaussian,
    greedy,
    representatives,
    width,
)
from tests.models.acquisition.naive import distances, facility, unit


def make_pool(images: int, labeled: int = 0, pending: int = 0) -> Pool:
    """Images of which the last are labeled, in three classes, and some before these pending."""
    count = images + pending + labeled
    rows = torch.arange(count)
    return Pool(
        unit(count, 6),
        rows[:images],
        None,
        labeled=rows[images + pending :],
        targets=torch.arange(labeled) % 3,
        pending=rows[images : images + pending],
    )


@pytest.mark.parametrize("kernel", [gaussian(0.7), ball(0.9)], ids=["gaussian", "ball"])
@pytest.mark.parametrize("weighted", [False, True])
def test_lazy_picks_are_those_of_the_plain_greedy_algorithm(kernel, weighted):
    pool = make_pool(150, labeled=4, pending=3)
    weights = torch.rand(150, generator=torch.Generator().manual_seed(1)) if weighted else None
    everything = torch.arange(150)

    picks, gains, _ = greedy(Herding(pool, everything, kernel, weights), everything, 25)

    points = pool.embeddings.double()
    similarities = kernel(points @ points.T)
    expected, expected_gains = facility(
        similarities[:150, :150], similarities[:150, 150:], 25, weights
    )
    assert picks.tolist() == expected
    assert torch.allclose(gains.double(), expected_gains, atol=1e-6)


def test_a_gaussian_falls_with_the_distance_and_a_ball_ends_at_its_radius():
    cosines = torch.tensor([1.0, 0.5, -1.0])  # distances 0, 1 and 2

    assert gaussian(2.0)(cosines.clone()).tolist() == pytest.approx(
        [1, math.exp(-0.25), math.exp(-1)]
    )
    assert ball(1.0)(cosines).tolist() == [1, 1, 0]


def test_what_is_covered_already_adds_nothing():
    pool = make_pool(20, labeled=5)
    pool.embeddings[:5] = pool.embeddings[20:]  # copies of the labeled ones
    herding = Herding(pool, torch.arange(5), gaussian(1.0))

    assert herding.gains(torch.arange(20)).abs().max() < 1e-6


def test_gains_never_grow():
    pool = make_pool(40)
    herding = Herding(pool, torch.arange(40), gaussian(1.0))
    before = herding.gains(torch.arange(40))

    herding.take(7)

    after = herding.gains(torch.arange(40))
    assert (after <= before + 1e-7).all()
    assert float(after[7]) == pytest.approx(0, abs=1e-6)


def test_the_width_is_the_smallest_distance_of_two_labeled_images():
    pool = make_pool(3, labeled=30)
    between = distances(pool.embeddings[3:], pool.embeddings[3:]) + 9 * torch.eye(30)

    assert width(pool) == pytest.approx(float(between.min()), abs=1e-5)
    assert width(pool, least=1.5) == 1.5
    assert width(make_pool(3, labeled=1)) == 1.0


def test_representatives_have_the_share_of_each_class():
    pool = make_pool(5, labeled=300)

    rows = representatives(pool, 30)

    targets = pool.targets[rows - 5]
    assert len(set(rows.tolist())) == 30
    assert torch.bincount(targets).tolist() == pytest.approx([10, 10, 10], abs=1)
    assert representatives(pool, 300).tolist() == pool.labeled.tolist()
