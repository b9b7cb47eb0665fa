"""BADGE."""

import torch

from models.acquisition import Pool
from models.acquisition.gradients import Gradients, gradients, kmeans_plus_plus_of_gradients
from models.acquisition.strategies.badge import Badge
from tests.models.acquisition.naive import classify, unit


def whole_gradients(points: torch.Tensor) -> torch.Tensor:
    """The N x C x D array that the strategy never builds."""
    probabilities = classify(points).double()
    likeliest = torch.nn.functional.one_hot(probabilities.argmax(dim=1), probabilities.shape[1])
    return ((probabilities - likeliest)[:, :, None] * points.double()[:, None, :]).flatten(1)


def test_factors_give_the_distances_of_whole_gradients():
    points = unit(100, 8)
    factors = gradients(Pool(points, torch.arange(100), classify))
    whole = whole_gradients(points)

    norms = factors.norms()
    squares = norms[:, None] + norms - 2 * torch.stack([factors.products(n) for n in range(100)])

    assert torch.allclose(squares.double(), torch.cdist(whole, whole) ** 2, atol=1e-5)


def test_the_picks_are_those_of_k_means_plus_plus_on_whole_gradients():
    points = unit(200, 8)
    generator = torch.Generator().manual_seed(0)

    picks, scores, _ = Badge().rank(Pool(points, torch.arange(200), classify), 30)

    whole = whole_gradients(points)
    nearest = (whole**2).sum(dim=1)
    expected, drawn = [int(nearest.argmax())], [float(nearest.max())]
    nearest = ((whole - whole[expected[0]]) ** 2).sum(dim=1)
    for _ in range(29):
        sums = nearest.cumsum(dim=0)
        at = torch.rand((), generator=generator, dtype=torch.float64) * sums[-1]
        expected.append(int(torch.searchsorted(sums, at, right=True)))
        drawn.append(float(nearest[expected[-1]]))
        nearest = torch.minimum(nearest, ((whole - whole[expected[-1]]) ** 2).sum(dim=1))
    assert picks.tolist() == expected
    assert torch.allclose(scores, torch.tensor(drawn), atol=1e-5)


def test_nearer_images_are_drawn_less_often():
    factors = Gradients(torch.tensor([[1.0], [0.9], [0.0]]), torch.ones(3, 1))

    second = [
        int(kmeans_plus_plus_of_gradients(factors, 2, torch.Generator().manual_seed(seed))[0][1])
        for seed in range(400)
    ]

    # Squared distances to the first are 0, 0.01 and 1.
    assert 0 < second.count(1) < 20
    assert second.count(0) == 0


def test_of_a_larger_pool_the_longest_gradient_may_always_be_picked():
    points = unit(500, 8)
    pool = Pool(points, torch.arange(500), classify)

    picks, _, _ = Badge(candidates=20).rank(pool, 5)

    assert picks[0] == Badge().rank(pool, 1).indices[0]
