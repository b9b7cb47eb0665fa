"""What every acquisition strategy promises."""

from functools import partial

import pytest
import torch

from models.acquisition import BLOCK_ROWS, Pool, strategies, top
from models.acquisition.margin import Margin

CENTROIDS = torch.eye(4)


def classify(embeddings: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    return (embeddings @ CENTROIDS.T / temperature).softmax(dim=1)


def make_pool(images: int = 50, *, dtype: torch.dtype = torch.float32) -> Pool:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(images, 4, generator=generator), dim=1)
    return Pool(embeddings.to(dtype), torch.arange(images), classify)


@pytest.fixture(params=strategies)
def strategy(request):
    return strategies[request.param]()


@pytest.mark.parametrize("budget", [1, 7, 50, 80])
def test_ranks_distinct_images_within_the_budget_best_first(strategy, budget):
    indices, scores = strategy.rank(make_pool(), budget)

    assert len(indices) == len(scores) == min(budget, 50)
    assert len(set(indices.tolist())) == len(indices)
    assert scores.isfinite().all()
    assert (scores.diff() <= 0).all()


def test_the_same_pool_is_ranked_alike_again(strategy):
    first, second = strategy.rank(make_pool(), 20), strategy.rank(make_pool(), 20)

    assert first.indices.tolist() == second.indices.tolist()


def test_a_smaller_budget_is_the_start_of_a_larger_one(strategy):
    few, many = strategy.rank(make_pool(), 5), strategy.rank(make_pool(), 20)

    assert many.indices[:5].tolist() == few.indices.tolist()


def test_only_the_pool_is_ranked(strategy):
    whole = make_pool()
    rows = torch.tensor([40, 3, 17])
    part = Pool(whole.embeddings, rows, classify)

    indices, _ = strategy.rank(part, 10)

    assert sorted(indices.tolist()) == [0, 1, 2]


def test_half_precision_embeddings_rank_nearly_alike(strategy):
    exact = strategy.rank(make_pool(), 50)
    half = strategy.rank(make_pool(dtype=torch.float16), 50)

    by_image = torch.empty(50).index_copy(0, exact.indices, exact.scores)
    # float16 has 11 bits, so a cosine is off by 5e-4 and a logit by 5e-3.
    assert torch.allclose(by_image[half.indices], half.scores, atol=2e-2)


def test_certain_probabilities_give_finite_scores(strategy):
    certain = Pool(torch.eye(4), torch.arange(4), partial(classify, temperature=1e-4))

    assert strategy.rank(certain, 4).scores.isfinite().all()


@pytest.mark.parametrize("name", ["entropy", "least_confidence", "margin"])
def test_images_that_are_nearly_certain_keep_their_order(name):
    others = torch.tensor([1e-12, 1e-9, 1e-15])
    pool = Pool(torch.eye(3), torch.arange(3), lambda e: e @ torch.stack([1 - others, others], 1))

    ranking = strategies[name]().rank(pool, 3)

    assert ranking.indices.tolist() == [1, 0, 2]


def test_what_needs_classes_says_so_when_there_are_none(strategy):
    pool = Pool(torch.eye(4), torch.arange(4), None)

    if strategy.needs_classes:
        with pytest.raises(ValueError, match="at least two classes"):
            strategy.rank(pool, 2)
    else:
        assert len(strategy.rank(pool, 2).indices) == 2


def test_blocks_change_nothing():
    pool = make_pool(2 * BLOCK_ROWS + 3)

    indices, scores = Margin().rank(pool, len(pool))

    first, second = classify(pool.embeddings).topk(2, dim=1).values.unbind(dim=1)
    assert torch.allclose(scores, (1 - first + second)[indices], atol=1e-6)


def test_ties_keep_the_order_of_the_pool():
    indices, _ = top(torch.tensor([1.0, 2.0, 1.0, 2.0, 1.0]), 4)

    assert indices.tolist() == [1, 3, 0, 2]
