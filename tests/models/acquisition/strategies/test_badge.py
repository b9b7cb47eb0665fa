"""BADGE."""

import torch

from models.acquisition import Pool
from models.acquisition.strategies.badge import Badge
from tests.models.acquisition.naive import classify, unit, whole_gradients


def test_the_picks_are_those_of_k_means_plus_plus_on_whole_gradients():
    points = unit(200, 8)
    generator = torch.Generator().manual_seed(0)

    picks, scores, _ = Badge().rank(Pool(points, torch.arange(200), classify), 30)

    whole = whole_gradients(points)
    nearest = (whole**2).sum(dim=1)
    expected, squares = [int(nearest.argmax())], [float(nearest.max())]
    nearest = ((whole - whole[expected[0]]) ** 2).sum(dim=1)
    for _ in range(29):
        sums = nearest.cumsum(dim=0)
        at = torch.rand((), generator=generator, dtype=torch.float64) * sums[-1]
        expected.append(int(torch.searchsorted(sums, at, right=True)))
        squares.append(float(nearest[expected[-1]]))
        nearest = torch.minimum(nearest, ((whole - whole[expected[-1]]) ** 2).sum(dim=1))
    assert picks.tolist() == expected
    assert torch.allclose(scores, torch.tensor(squares), atol=1e-5)


def test_of_a_larger_pool_the_longest_gradient_may_always_be_picked():
    points = unit(500, 8)
    pool = Pool(points, torch.arange(500), classify)

    picks, _, _ = Badge(candidates=20).rank(pool, 5)

    assert picks[0] == Badge().rank(pool, 1).indices[0]
