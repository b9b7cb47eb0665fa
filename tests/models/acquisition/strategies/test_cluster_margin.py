"""Cluster-margin."""

import pytest
import torch

from models.acquisition import Pool
from models.acquisition.strategies.cluster_margin import ClusterMargin
from models.embeddings.clusters import average_linkage
from tests.models.acquisition.naive import classify, margins, unit


def test_clusters_are_those_of_average_linkage():
    peer = pytest.importorskip("scipy.cluster.hierarchy")
    points = unit(80, 4)

    groups = average_linkage(points, 12)

    linkage = peer.linkage(points.double(), "average")
    expected = torch.from_numpy(peer.fcluster(linkage, 12, "maxclust"))
    assert int(groups.max()) == 11
    together = groups[:, None] == groups
    assert torch.equal(together, expected[:, None] == expected)


def test_clusters_take_turns_the_smallest_first_and_each_gives_its_smallest_margin():
    points = unit(60, 4)
    pool = Pool(points, torch.arange(60), classify)

    picks, scores, _ = ClusterMargin().rank(pool, 8)

    doubts = margins(classify(points))
    groups = average_linkage(points[doubts.argsort(descending=True, stable=True)], 16)
    of_image = torch.empty(60, dtype=torch.long)
    of_image[doubts.argsort(descending=True, stable=True)] = groups
    smallest = sorted(range(16), key=lambda g: (int((groups == g).sum()), g))[:8]
    expected = [
        max((int(i) for i in (of_image == g).nonzero()), key=lambda i: float(doubts[i]))
        for g in smallest
    ]
    assert picks.tolist() == expected
    assert torch.allclose(scores.double(), doubts[picks], atol=1e-6)
