"""Unknown first."""

import torch

from models.acquisition import Pool
from models.acquisition.strategies.unknown_first import UnknownFirst
from tests.models.acquisition.naive import distances, unit


def test_score_is_the_distance_to_the_kth_closest_labeled_image():
    points = unit(60, 8)
    pool = Pool(points, torch.arange(50), None, labeled=torch.arange(50, 60))

    picks, scores, _ = UnknownFirst(neighbours=3).rank(pool, 50)

    expected = distances(points[:50], points[50:]).sort(dim=1).values[:, 2]
    assert torch.allclose(scores.double(), expected[picks], atol=1e-5)


def test_without_a_label_outliers_of_the_pool_come_first():
    points = torch.eye(4)[[0] * 20 + [1]]

    assert UnknownFirst().rank(Pool(points, torch.arange(21), None), 1).indices.tolist() == [20]
