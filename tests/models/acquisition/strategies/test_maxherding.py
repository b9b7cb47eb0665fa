"""MaxHerding."""

import torch

from models.acquisition import Pool
from models.acquisition.strategies.maxherding import MaxHerding
from tests.models.acquisition.naive import herding, unit


def test_the_picks_are_those_of_the_naive_greedy_algorithm():
    points = unit(300, 8)
    pool = Pool(points, torch.arange(290), None, labeled=torch.arange(290, 300))

    picks, scores, _ = MaxHerding().rank(pool, 40)

    expected, gains = herding(points[:290], points[290:], 40)
    assert picks.tolist() == expected
    assert torch.allclose(scores.double(), gains, atol=1e-6)


def test_without_a_label_the_first_pick_is_most_similar_to_all():
    points = unit(200, 8)

    picks, _, _ = MaxHerding().rank(Pool(points, torch.arange(200), None), 20)

    assert picks.tolist() == herding(points, points[:0], 20)[0]


def test_an_image_that_was_handed_out_counts_as_covered():
    points = unit(100, 4)
    rows = torch.arange(99)

    handed_out = MaxHerding().rank(Pool(points, rows, None, pending=torch.tensor([99])), 10)
    labeled = MaxHerding().rank(Pool(points, rows, None, labeled=torch.tensor([99])), 10)

    assert handed_out.indices.tolist() == labeled.indices.tolist()


def test_few_landmarks_cover_nearly_as_much():
    points = unit(2000, 8)
    pool = Pool(points, torch.arange(2000), None)

    def covered(picks: torch.Tensor) -> float:
        kernel = (-((2 - 2 * points @ points[picks].T).clamp_min(0))).exp()
        return float(kernel.amax(dim=1).mean())

    exact = covered(MaxHerding().rank(pool, 20).indices)
    sampled = covered(MaxHerding(landmarks=500).rank(pool, 20).indices)

    assert exact - 0.02 < sampled <= exact
