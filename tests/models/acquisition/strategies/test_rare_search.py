"""Rare search."""

from dataclasses import replace

import pytest
import torch

from models.acquisition import Pool
from models.acquisition.strategies.rare_search import RareSearch
from tests.models.acquisition.naive import classify, distances, unit


def make_pool() -> Pool:
    points = unit(220, 8)
    labeled = torch.arange(200, 220)
    targets = torch.tensor([0] * 8 + [1] * 3 + [2] * 2 + [3] * 7)
    return Pool(
        points, torch.arange(200), classify, labeled, targets, names=("ant", "bee", "cat", "dog")
    )


@pytest.mark.parametrize(("label", "target"), [(None, 2), ("bee", 1)])
def test_neighbours_of_the_label_s_images_come_likeliest_first(label, target):
    pool = make_pool()

    picks, scores, _ = RareSearch(label=label, neighbours=10).rank(pool, 8)

    anchors = pool.embeddings[pool.labeled[pool.targets == target]]
    neighbours = distances(anchors, pool.embeddings[:200]).topk(10, largest=False).indices.unique()
    likely = classify(pool.embeddings[:200])[:, target]
    expected = neighbours[likely[neighbours].argsort(descending=True, stable=True)][:8]
    assert picks.tolist() == expected.tolist()
    assert torch.allclose(scores, likely[picks])


def test_others_follow_when_neighbours_are_too_few():
    picks, _, _ = RareSearch(neighbours=2).rank(make_pool(), 200)

    assert sorted(picks.tolist()) == list(range(200))


def test_a_label_without_an_image_is_refused():
    with pytest.raises(ValueError, match="no image has the label 'eel' yet"):
        RareSearch(label="eel").rank(replace(make_pool(), seed=1), 3)
