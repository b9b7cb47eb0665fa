"""What every acquisition strategy promises."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from models.acquisition import NoClasses, Pool, of_labeled
from models.acquisition.strategies import strategies

CENTROIDS = torch.eye(4)
SCORED = ["bald", "entropy", "least_confidence", "margin", "random", "unknown_first"]  # one by one
WHOLE = ["adaptive", "cluster_margin", "dropquery", "refine", "typiclust"]  # by the budget


def classify(embeddings: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    return (embeddings @ CENTROIDS.T / temperature).softmax(dim=1)


def make_pool(images: int = 50, *, dtype: torch.dtype = torch.float32) -> Pool:
    """A pool, and eight labeled images behind it."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(images + 8, 4, generator=generator)
    embeddings = torch.nn.functional.normalize(points, dim=1).to(dtype)
    labeled = torch.arange(images, images + 8)
    return Pool(embeddings, torch.arange(images), classify, labeled, labeled % 4)


OF_POOL = [name for name in strategies if not of_labeled(strategies[name]())]


@pytest.fixture(params=OF_POOL)
def strategy(request):
    return strategies[request.param]()


@pytest.mark.parametrize("budget", [1, 7, 50, 80])
def test_ranks_distinct_images_within_the_budget_best_first(strategy, budget):
    indices, scores, _ = strategy.rank(make_pool(), budget)

    assert len(indices) == len(scores) == min(budget, 50)
    assert len(set(indices.tolist())) == len(indices)
    assert scores.isfinite().all()


@pytest.mark.parametrize("name", SCORED)
def test_scored_images_come_highest_first(name):
    assert (strategies[name]().rank(make_pool(), 50).scores.diff() <= 0).all()


def test_the_same_pool_is_ranked_alike_again(strategy):
    first, second = strategy.rank(make_pool(), 20), strategy.rank(make_pool(), 20)

    assert first.indices.tolist() == second.indices.tolist()


@pytest.mark.parametrize("name", [name for name in OF_POOL if name not in WHOLE])
def test_a_smaller_budget_is_the_start_of_a_larger_one(name):
    strategy = strategies[name]()

    few, many = strategy.rank(make_pool(), 5), strategy.rank(make_pool(), 20)

    assert many.indices[:5].tolist() == few.indices.tolist()


def test_only_the_pool_is_ranked(strategy):
    whole = make_pool()
    part = replace(whole, rows=torch.tensor([40, 3, 17]))

    indices, _, _ = strategy.rank(part, 10)

    assert sorted(indices.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("name", SCORED)
def test_half_precision_embeddings_rank_nearly_alike(name):
    strategy = strategies[name]()
    exact = strategy.rank(make_pool(), 50)
    half = strategy.rank(make_pool(dtype=torch.float16), 50)

    by_image = torch.empty(50).index_copy(0, exact.indices, exact.scores)
    # float16 has 11 bits, so a cosine is off by 5e-4 and a logit by 5e-3.
    assert torch.allclose(by_image[half.indices], half.scores, atol=2e-2)


def test_certain_probabilities_give_finite_scores(strategy):
    certain = Pool(
        torch.eye(4).repeat(2, 1),
        torch.arange(4),
        partial(classify, temperature=1e-4),
        torch.arange(4, 8),
        torch.arange(4),
    )

    assert strategy.rank(certain, 4).scores.isfinite().all()


@pytest.mark.parametrize("name", ["entropy", "least_confidence", "margin"])
def test_images_that_are_nearly_certain_keep_their_order(name):
    rivals = torch.tensor([1e-12, 1e-9, 1e-15])
    pool = Pool(torch.eye(3), torch.arange(3), lambda e: e @ torch.stack([1 - rivals, rivals], 1))

    ranking = strategies[name]().rank(pool, 3)

    assert ranking.indices.tolist() == [1, 0, 2]


def test_what_needs_classes_says_so_when_there_are_none(strategy):
    pool = Pool(torch.eye(4), torch.arange(4), None)

    if strategy.needs_classes:
        with pytest.raises(ValueError, match="at least two classes"):
            strategy.rank(pool, 2)
    else:
        assert len(strategy.rank(pool, 2).indices) == 2


def test_one_and_two_threads_choose_alike(strategy):
    pool = make_pool(1500)
    by_one = strategy.rank(pool, 30)

    torch.set_num_threads(2)
    by_two = strategy.rank(pool, 30)
    torch.set_num_threads(1)

    assert by_one.indices.tolist() == by_two.indices.tolist()
    assert torch.allclose(by_one.scores, by_two.scores, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("budget", [3, 100])
def test_identical_images_are_chosen_once_each(strategy, budget):
    same = torch.nn.functional.normalize(torch.ones(68, 4), dim=1).half()
    labeled = torch.arange(60, 68)
    pool = Pool(same, torch.arange(60), classify, labeled, labeled % 4)

    indices, scores, _ = strategy.rank(pool, budget)

    assert len(indices) == len(set(indices.tolist())) == min(budget, 60)
    assert scores.isfinite().all()


def test_a_pool_without_embeddings_gives_nothing(strategy):
    whole = make_pool()
    none = replace(whole, rows=whole.rows[:0])

    indices, scores, _ = strategy.rank(none, 5)

    assert len(indices) == len(scores) == 0


def test_labels_of_one_class_are_enough_for_what_needs_no_classes(strategy):
    pool = replace(make_pool(), targets=torch.zeros(8, dtype=torch.long), probabilities=None)

    if strategy.needs_classes:
        with pytest.raises(NoClasses):
            strategy.rank(pool, 5)
    else:
        assert len(strategy.rank(pool, 5).indices) == 5


def test_more_labeled_images_than_pool(strategy):
    whole = make_pool(200)
    pool = replace(
        whole, rows=torch.arange(3), labeled=torch.arange(3, 200), targets=torch.arange(197) % 4
    )

    assert sorted(strategy.rank(pool, 5).indices.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("name", [name for name in OF_POOL if name != "dropquery"])
def test_what_all_images_share_is_subtracted_before_they_are_compared(name):
    strategy, plain = strategies[name](), make_pool(200)
    shift = torch.full((4,), 0.5)
    shifted = replace(
        plain,
        embeddings=plain.embeddings + shift,
        probabilities=lambda embeddings: classify(embeddings - shift),
        mean=shift,
    )

    picks = strategy.rank(shifted, 30).indices

    assert picks.tolist() == strategy.rank(plain, 30).indices.tolist()
    if name not in SCORED or name in ("bald", "unknown_first"):
        assert picks.tolist() != strategy.rank(replace(shifted, mean=None), 30).indices.tolist()


LARGE = ["badge", "bald", "coreset", "dropquery", "maxherding", "probcover", "refine", "uherding"]


@pytest.mark.parametrize("name", LARGE)
def test_of_a_large_pool_a_sample_may_be_picked(name):
    pool = make_pool(300)
    kind: Any = strategies[name]  # which of their options there are differs

    picks = kind(candidates=60).rank(pool, 20).indices

    # The longest gradient may always be picked.
    allowed = set(pool.sample(60).tolist()) | ({int(picks[0])} if name == "badge" else set())
    assert len(set(picks.tolist())) == 20
    assert set(picks.tolist()) <= allowed
    assert len(kind(candidates=5).rank(pool, 20).indices) == 20
    exact = kind(candidates=300).rank(pool, 20)
    assert exact.indices.tolist() == strategies[name]().rank(pool, 20).indices.tolist()
