"""Gradients of a last layer, by their two factors."""

import torch

from models.acquisition import Pool
from models.acquisition.gradients import Gradients, gradients, kmeans_plus_plus_of_gradients
from tests.models.acquisition.naive import classify, unit, whole_gradients


def test_factors_give_the_distances_of_whole_gradients():
    points = unit(100, 8)
    factors = gradients(Pool(points, torch.arange(100), classify))
    whole = whole_gradients(points)

    norms = factors.norms()
    squares = norms[:, None] + norms - 2 * torch.stack([factors.products(n) for n in range(100)])

    assert torch.allclose(squares.double(), torch.cdist(whole, whole) ** 2, atol=1e-5)


def test_nearer_images_are_drawn_less_often():
    factors = Gradients(torch.tensor([[1.0], [0.9], [0.0]]), torch.ones(3, 1))

    second = [
        int(kmeans_plus_plus_of_gradients(factors, 2, torch.Generator().manual_seed(seed))[0][1])
        for seed in range(400)
    ]

    # Squared distances to the first are 0, 0.01 and 1.
    assert 0 < second.count(1) < 20
    assert second.count(0) == 0


def test_the_longest_gradient_comes_first_and_none_twice():
    points = unit(50, 8)
    factors = gradients(Pool(points, torch.arange(50), classify))

    picks, scores = kmeans_plus_plus_of_gradients(factors, 80, torch.Generator().manual_seed(0))

    assert int(picks[0]) == int(factors.norms().argmax())
    assert float(scores[0]) == float(factors.norms().max())
    assert sorted(picks.tolist()) == list(range(50))
