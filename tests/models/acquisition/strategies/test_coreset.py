"""Core-set."""

import torch

from models.acquisition import Pool
from models.acquisition.strategies.coreset import CoreSet
from tests.models.acquisition.naive import k_center, unit


def test_the_picks_are_those_of_the_naive_greedy_algorithm():
    points = unit(410, 8)
    labeled = torch.arange(400, 410)
    pool = Pool(points, torch.arange(400), None, labeled, labeled % 4)

    picks, scores, _ = CoreSet().rank(pool, 60)

    expected, distances = k_center(points[:400], points[400:], 60)
    assert picks.tolist() == expected
    assert torch.allclose(scores.double(), distances, atol=1e-5)


def test_without_a_label_the_most_central_goes_first():
    points = unit(50, 3)
    central = int((points @ points.mean(dim=0)).argmax())

    picks, scores, _ = CoreSet().rank(Pool(points, torch.arange(50), None), 10)

    expected, distances = k_center(points, points[[central]], 9)
    assert picks.tolist() == [central, *expected]
    assert torch.allclose(scores.double(), torch.cat([torch.tensor([2.0]), distances]), atol=1e-5)


def test_many_labeled_images_are_stood_for_by_each_class_s_share():
    points = unit(300, 4)
    labeled = torch.arange(100, 300)
    pool = Pool(points, torch.arange(100), None, labeled, labeled % 2)

    picks, _, _ = CoreSet(landmarks=100).rank(pool, 5)

    assert len(picks) == 5
