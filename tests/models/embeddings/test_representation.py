"""Measures of features."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Generator, Tensor
from torch.nn import functional as F

from models.embeddings.representation import (
    TEMPERATURE,
    effective_rank,
    feature_std,
    nearest_accuracy,
)


def normal(count: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(count, dim, generator=Generator().manual_seed(seed))


def clusters(count: int, labels: int, noise: float) -> tuple[Tensor, Tensor]:
    """Unit vectors about one direction for each label."""
    targets = torch.arange(count) % labels
    return F.normalize(torch.eye(8)[targets] + noise * normal(count, 8), dim=1), targets


def test_the_effective_rank_is_that_of_directions_which_are_used_equally():
    assert effective_rank(torch.eye(7)) == pytest.approx(7, rel=1e-5)
    assert effective_rank(5 * torch.eye(7)[:, :3]) == pytest.approx(3, rel=1e-5)


def test_the_effective_rank_of_one_direction_is_one():
    features = normal(10, 1) * normal(1, 6, seed=1)

    assert effective_rank(features) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.zeros(10, 6)) == 1


def test_the_effective_rank_is_the_exponential_of_the_entropy_of_singular_values():
    shares = [0.5, 0.3, 0.2]
    u, v = (torch.linalg.qr(normal(n, 3, seed=n)).Q for n in (9, 5))

    rank = effective_rank(u @ torch.diag(4 * torch.tensor(shares)) @ v.T)

    assert rank == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-3)


def test_features_that_are_one_have_no_spread():
    lengths = torch.arange(1.0, 11).unsqueeze(1)  # directions count, lengths do not

    assert feature_std(lengths * torch.ones(10, 6)) == pytest.approx(0, abs=1e-5)


def test_features_all_over_the_sphere_have_a_spread_of_one():
    # A deviation from 1000 vectors is 2 % off.
    assert feature_std(normal(1000, 16)) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("neighbours", "right"), [(1, 3), (3, 5)])
def test_neighbours_vote_for_their_classes(neighbours, right):
    angles = torch.tensor([0.0, 0.1, 0.2, 1.5, 1.6, 0.05])
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1)
    targets = torch.tensor([0, 0, 0, 1, 1, 1])  # the last lies among those of class 0

    accuracy = nearest_accuracy(embeddings, targets, neighbours)

    # Alone it misleads the two beside it; three neighbours outvote it, and miss only itself.
    assert accuracy == pytest.approx(right / 6)


def test_one_near_neighbour_outvotes_two_far_ones():
    cosines = torch.tensor([0.9, 0.7, 0.7])  # with the first image; exp(9 / 0.7) > 2 exp(7 / 0.7)
    rotated = torch.cat([cosines.unsqueeze(1), (1 - cosines.square()).sqrt().diag()], dim=1)
    embeddings = torch.cat([torch.eye(4)[:1], rotated])
    targets = torch.tensor([0, 0, 1, 1])

    accuracy = nearest_accuracy(embeddings, targets, neighbours=3)

    # The first two find each other, and the last two find them as well.
    assert accuracy == pytest.approx(2 / 4)


def test_images_are_no_neighbours_of_their_own():
    embeddings, targets = torch.eye(4)[[0, 0, 1, 1]], torch.tensor([0, 1, 2, 3])

    assert nearest_accuracy(embeddings, targets, neighbours=1) == 0


@pytest.mark.parametrize("neighbours", [1, 5, 100])
def test_accuracy_is_that_of_scikit_learn_with_each_image_left_out_by_hand(neighbours):
    embeddings, targets = clusters(30, labels=3, noise=0.6)
    points, truth = embeddings.numpy(), targets.numpy()

    accuracy = nearest_accuracy(embeddings, targets, neighbours)

    right = 0
    for n in range(30):
        remaining = np.arange(30) != n
        classifier = KNeighborsClassifier(
            min(neighbours, 29),
            metric="cosine",
            weights=lambda distances: np.exp((1 - distances) / TEMPERATURE),
        ).fit(points[remaining], truth[remaining])
        right += classifier.predict(points[n : n + 1])[0] == truth[n]
    assert 0.3 < accuracy < 1
    assert accuracy == pytest.approx(right / 30)


def test_many_images_are_asked_in_parts_that_change_nothing(monkeypatch):
    embeddings, targets = clusters(30, labels=3, noise=0.6)
    at_once = nearest_accuracy(embeddings, targets)

    monkeypatch.setattr("models.embeddings.representation.QUERIES", 7)

    assert nearest_accuracy(embeddings, targets) == at_once
