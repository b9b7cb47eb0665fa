"""The adaptive strategy."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.acquisition import Pool
from models.acquisition.coverage import width
from models.acquisition.strategies.adaptive import Adaptive
from models.acquisition.strategies.maxherding import MaxHerding
from models.acquisition.strategies.uherding import UHerding
from tests.models.acquisition.naive import classify, herding, margins, unit

ALONE = Adaptive(uniform=0.0)


def make_pool(images: int = 300) -> Pool:
    points = unit(images + 8, 8)
    labeled = torch.arange(images, images + 8)
    return Pool(points, torch.arange(images), classify, labeled, labeled % 4)


def test_without_classes_it_covers_the_pool():
    pool = replace(make_pool(), probabilities=None)

    picks, scores, _ = ALONE.rank(pool, 20)

    expected = MaxHerding().rank(pool, 20)
    assert picks.tolist() == expected.indices.tolist()
    assert torch.equal(scores, expected.scores)


def test_while_a_class_is_unseen_it_covers_the_pool():
    pool = replace(make_pool(), unseen=1)

    assert ALONE.rank(pool, 20).indices.tolist() == MaxHerding().rank(pool, 20).indices.tolist()


def test_without_skill_it_covers_what_is_uncertain_given_how_frequent_labels_seem():
    pool = make_pool()  # with two labeled images of each class

    even = classify(pool.embeddings[:300]).double()
    likely = even * even.mean(dim=0)
    doubt = margins(likely / likely.sum(dim=1, keepdim=True))
    expected, _ = herding(
        pool.embeddings[:300], pool.embeddings[300:], 20, sigma=width(pool), weights=doubt
    )
    assert ALONE.rank(pool, 20).indices.tolist() == expected


def test_what_looks_like_a_rare_label_is_not_certain():
    """Of 100 images 5 look like the second class, each as surely as the others like the first."""
    points = unit(102, 8)
    rare = torch.arange(95, 100)
    points[rare] = F.normalize(points[95] + 0.1 * points[rare], dim=1)

    def classify(vectors: Tensor) -> Tensor:
        second = (vectors @ points[95] > 0.8)[:, None]
        return torch.where(second, torch.tensor([0.1, 0.9]), torch.tensor([0.9, 0.1]))

    labeled = torch.tensor([100, 101])
    pool = Pool(points, torch.arange(100), classify, labeled, torch.tensor([0, 1]))

    assert int(ALONE.rank(pool, 1).indices[0]) in rare
    assert int(UHerding().rank(pool, 1).indices[0]) not in rare


def test_what_may_be_of_a_rare_class_counts_more():
    pool = make_pool()
    uneven = replace(pool, targets=torch.tensor([0, 0, 0, 1, 1, 1, 2, 3]))

    def of_rare(pool: Pool) -> int:
        picks = ALONE.rank(pool, 40).indices
        return int((classify(pool.embeddings[picks]).argmax(dim=1) >= 2).sum())

    assert of_rare(uneven) > of_rare(pool)


def test_with_full_skill_it_picks_from_the_smallest_margins():
    pool = replace(make_pool(), skill=lambda: 1.0)

    picks, _, _ = ALONE.rank(pool, 5)

    doubtful = margins(classify(pool.embeddings[:300])).topk(50).indices
    assert len(picks) == 5
    assert set(picks.tolist()) <= set(doubtful.tolist())


def test_the_better_the_head_the_more_of_a_batch_is_left_to_the_gradients():
    alone = set(ALONE.rank(make_pool(), 20).indices.tolist())

    def of_uherding(skill: float) -> int:
        pool = replace(make_pool(), skill=lambda: skill)
        return len(alone & set(ALONE.rank(pool, 20).indices.tolist()))

    assert of_uherding(0.5) == 20
    assert of_uherding(0.9) > of_uherding(0.98)


def test_the_uniform_share_is_drawn_alike_from_the_whole_pool_and_says_how_likely():
    pool, strategy = make_pool(10), Adaptive(uniform=0.1)
    counts, expected = torch.zeros(10), 0.0
    for seed in range(200):
        indices, _, propensities = strategy.rank(replace(pool, seed=seed, skill=lambda: 0.0), 5)
        assert propensities is not None
        uniform = indices[propensities > 0]
        counts[uniform] += 1
        expected += float(propensities.max())
        assert len(uniform) in (0, 1)  # half an image on average

    # 200 draws of 1 / 20: a standard deviation of 3.1.
    assert abs(expected - 10) < 2
    assert (counts - 10).abs().max() < 13
    assert abs(float(counts.sum()) - 100) < 30


def test_uniform_images_lie_anywhere_in_the_batch():
    pool, strategy = replace(make_pool(30), skill=lambda: 0.0), Adaptive(uniform=0.1)

    places = {
        int(place)
        for seed in range(60)
        for place in strategy.rank(replace(pool, seed=seed), 10).propensities.nonzero()
    }

    assert places == set(range(10))


@pytest.mark.parametrize("uniform", [-0.1, 1.1])
def test_a_share_beyond_one_is_refused(uniform):
    with pytest.raises(ValueError, match="uniform must be from 0 to 1"):
        Adaptive(uniform=uniform)


def test_a_shortlist_stands_for_a_large_pool():
    picks, _, _ = Adaptive(candidates=50, landmarks=40).rank(make_pool(), 10)

    assert len(set(picks.tolist())) == 10
