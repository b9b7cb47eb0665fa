"""BALD."""

import torch
from torch.nn import functional as F

from models.acquisition import Pool
from models.acquisition.strategies.bald import Bald
from tests.models.acquisition.naive import classify, unit


def make_pool() -> Pool:
    points = unit(130, 8)
    labeled = torch.arange(100, 130)
    return Pool(points, torch.arange(100), classify, labeled, labeled % 4)


def test_score_is_the_mutual_information_of_label_and_member():
    pool, strategy = make_pool(), Bald(members=3, temperature=0.1)

    picks, scores, _ = strategy.rank(pool, 100)

    members = torch.stack(strategy._committee(pool)).double()  # (3, C, D)
    p = (torch.einsum("nd,mcd->mnc", pool.embeddings[:100].double(), members) / 0.1).softmax(2)
    marginal = -(p.mean(0) * p.mean(0).log()).sum(1)
    conditional = -(p * p.log()).sum(2).mean(0)
    assert torch.allclose(scores.double(), (marginal - conditional)[picks], atol=1e-5)


def test_a_member_s_centroids_are_of_images_of_their_class():
    pool = make_pool()

    for member in Bald()._committee(pool):
        for label in range(4):
            members = pool.vectors(pool.labeled[pool.targets == label])
            weights = torch.linalg.lstsq(
                members.T.double(), member[label].double()[:, None]
            ).solution
            assert torch.allclose(members.T.double() @ weights, member[label].double()[:, None])
            assert len(F.normalize(weights, dim=0)) == len(members)


def test_one_image_per_class_leaves_nothing_to_disagree_on():
    points = unit(24, 8)
    pool = Pool(points, torch.arange(20), classify, torch.arange(20, 24), torch.arange(4))

    assert float(Bald().rank(pool, 20).scores.max()) < 1e-5
