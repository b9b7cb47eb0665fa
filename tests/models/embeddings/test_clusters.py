"""k-means with a seed."""

import torch

from models.embeddings.clusters import assign, draw_by_weight, fit
from tests.models.acquisition.naive import distances, unit


def test_no_point_is_closer_to_another_centre_and_centres_are_means():
    points = unit(200, 4)

    centres, groups = fit(points, 8, torch.Generator().manual_seed(0))

    assert torch.equal(groups, distances(points, centres).argmin(dim=1))
    means = torch.stack([points[groups == group].mean(dim=0) for group in range(8)])
    assert torch.allclose(centres, means, atol=1e-5)


def test_tight_heaps_are_found():
    heaps = torch.nn.functional.normalize(torch.eye(8)[[0] * 9 + [1] * 5 + [2] * 20], dim=1)
    points = heaps + 0.001 * unit(34, 8)

    groups = fit(points, 3, torch.Generator().manual_seed(1)).groups

    assert [len(set(part.tolist())) for part in groups.split([9, 5, 20])] == [1, 1, 1]
    assert len(set(groups.tolist())) == 3


def test_more_clusters_than_points_are_one_for_each():
    points = unit(3, 4)

    assert len(fit(points, 10, torch.Generator().manual_seed(0)).centres) == 3


def test_points_far_from_the_origin_go_to_the_nearest_centre_too():
    points, centres = 5 * unit(50, 3), 3 * unit(6, 3, seed=1)

    assert torch.equal(assign(points, centres), distances(points, centres).argmin(dim=1))


def test_draws_are_in_proportion_to_weights():
    generator = torch.Generator().manual_seed(0)

    draws = [draw_by_weight(torch.tensor([0.0, 1.0, 3.0]), [], generator) for _ in range(2000)]

    assert draws.count(0) == 0
    assert abs(draws.count(2) - 1500) < 100


def test_without_any_weight_what_was_not_chosen_is_drawn():
    generator = torch.Generator().manual_seed(0)

    assert {draw_by_weight(torch.zeros(4), [0, 2], generator) for _ in range(50)} == {1, 3}
