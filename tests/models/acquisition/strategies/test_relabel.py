"""Asking again where a label is probably wrong."""

import pytest
import torch
from torch.nn import functional as F

from models.acquisition import NoClasses, Pool
from models.acquisition.strategies.relabel import Relabel
from models.evaluation.label_errors import label_errors
from models.heads.kinds.cosine import Cosine

WRONG = [3, 17, 28]


def make_pool() -> Pool:
    """Thirty labeled images of three classes, three of them with a wrong label; ten others."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(30) % 3
    noise = 0.1 * torch.randn(30, 6, generator=generator)
    points = F.normalize(torch.eye(6)[truth] + noise, dim=1)
    targets = truth.clone()
    targets[WRONG] = (targets[WRONG] + 1) % 3
    head = Cosine().fit(points, targets, 3)
    labeled = torch.arange(10, 40)
    return Pool(
        torch.cat([points[:10], points]),
        labeled,
        head.probabilities,
        labeled,
        targets,
        left_out=lambda: head.leave_one_out(points, targets).softmax(dim=1),
    )


def test_wrong_labels_are_picked_and_right_ones_are_not():
    picks, scores, _ = Relabel().rank(make_pool(), 10)

    assert sorted(picks.tolist()) == WRONG
    assert (scores.diff() <= 0).all()
    assert (scores > 0.5).all()  # another class is likelier


def test_the_order_is_that_of_the_label_errors():
    pool = make_pool()

    picks = Relabel().rank(pool, 10).indices

    assert pool.left_out is not None
    assert picks.tolist() == label_errors(pool.left_out(), pool.targets).rows.tolist()
    assert Relabel().rank(pool, 2).indices.tolist() == picks[:2].tolist()


def test_only_the_images_that_are_asked_for_are_ranked():
    pool = make_pool()

    part = pool.part(torch.arange(10, 30))

    assert sorted(Relabel().rank(part, 10).indices.tolist()) == [7, 18]


def test_an_image_alone_with_its_label_is_not_doubted():
    pool = make_pool()
    pool.targets[0] = 3
    head = Cosine().fit(pool.embeddings[10:], pool.targets, 4)
    alone = Pool(
        pool.embeddings,
        pool.rows,
        head.probabilities,
        pool.labeled,
        pool.targets,
        left_out=lambda: head.leave_one_out(pool.embeddings[10:], pool.targets).softmax(dim=1),
    )

    assert sorted(Relabel().rank(alone, 10).indices.tolist()) == WRONG


def test_without_labels_it_says_so():
    pool = Pool(torch.eye(4), torch.arange(4), None)

    with pytest.raises(NoClasses, match="at least two classes"):
        Relabel().rank(pool, 2)
