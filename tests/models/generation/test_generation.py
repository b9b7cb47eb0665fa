"""Groups to learn from: labels, and clusters of the pool."""

import pytest
import torch
from torch.nn import functional as F

from models import generation
from models.generation import FEWEST, TooFewGroups, cluster_pool, group
from tests.models.generation.conftest import made_up_groups

NONE = torch.empty(0, dtype=torch.long)


def clustered(count: int, each: int, dim: int = 6, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    centres = 5 * torch.eye(dim)[:count].repeat_interleave(each, dim=0)
    return F.normalize(centres + 0.1 * torch.randn(len(centres), dim, generator=generator), dim=1)


def test_labels_with_eight_images_come_first_and_then_clusters_of_the_pool():
    labeled = clustered(3, 10)[: 10 + 10 + 4]
    targets = torch.arange(3).repeat_interleave(10)[:24]

    groups = group(labeled, targets, clustered(4, 20), seed=0)

    assert groups.labels == 2
    assert groups.total > 2
    assert torch.bincount(groups.groups).min() >= FEWEST
    assert torch.equal(groups.groups[:20], targets[:20])


def test_a_label_with_fewer_images_is_no_group():
    labeled = clustered(3, FEWEST)[:-1]

    groups = group(labeled, torch.arange(3).repeat_interleave(FEWEST)[:-1], labeled[:0], seed=0)

    assert groups.total == groups.labels == 2


def test_too_few_images_in_every_class_and_no_pool_are_refused_with_what_is_missing():
    labeled = clustered(2, 7)

    with pytest.raises(TooFewGroups, match=r"the largest has 7.*0 images of the pool"):
        group(labeled, torch.arange(2).repeat_interleave(7), labeled[:0], seed=0)


def test_one_class_alone_is_refused():
    labeled = clustered(1, 20)

    with pytest.raises(TooFewGroups, match="two groups of 8 images are needed"):
        group(labeled, torch.zeros(20, dtype=torch.long), labeled[:0], seed=0)


def test_a_pool_of_images_that_are_all_alike_is_refused():
    pool = F.normalize(torch.ones(30, 6), dim=1)

    with pytest.raises(TooFewGroups, match="they are all alike"):
        group(pool[:0], NONE, pool, seed=0)


def test_only_some_groups_are_renumbered():
    groups = made_up_groups()._replace(labels=3)

    part = groups.only([1, 4])

    assert (part.total, part.labels) == (2, 1)
    assert torch.equal(part.points[:12], groups.points[12:24])


def test_a_large_pool_is_looked_at_evenly(monkeypatch):
    monkeypatch.setattr(generation, "MOST_POINTS", 40)

    groups = group(torch.empty(0, 6), NONE, clustered(4, 30), seed=0)

    assert len(groups.points) <= 40
    assert len(cluster_pool(torch.empty(0, 6), seed=0)) == 0
