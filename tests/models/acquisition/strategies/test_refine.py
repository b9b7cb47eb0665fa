"""Refine."""

import torch

from models.acquisition import Pool
from models.acquisition.strategies import strategies
from models.acquisition.strategies.refine import MEMBERS, Refine
from tests.models.acquisition.naive import classify, distances, unit


def test_what_the_members_keep_is_covered_as_maxherding_would():
    points = unit(210, 8)
    labeled = torch.arange(200, 210)
    pool = Pool(points, torch.arange(200), classify, labeled, labeled % 4)

    picks, _, _ = Refine(rounds=1, widest=2).rank(pool, 6)

    candidates = sorted({int(i) for m in MEMBERS for i in strategies[m]().rank(pool, 12).indices})
    kernel = (-(distances(points[:200], points[:200]) ** 2)).exp()
    best = (-(distances(points[:200], points[200:]) ** 2)).exp().amax(dim=1)
    expected = []
    for _ in range(6):
        gains = (kernel[candidates] - best).clamp_min(0).mean(dim=1)
        expected.append(candidates[int(gains.argmax())])
        best = torch.maximum(best, kernel[expected[-1]])
    assert picks.tolist() == expected


def test_rounds_narrow_the_pool():
    points = unit(210, 8)
    labeled = torch.arange(200, 210)
    pool = Pool(points, torch.arange(200), classify, labeled, labeled % 4)

    picks, _, _ = Refine(rounds=3, widest=4).rank(pool, 5)

    assert len(set(picks.tolist())) == 5
