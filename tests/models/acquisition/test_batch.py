"""What may surround a strategy."""

from dataclasses import replace

import torch

from models.acquisition import Pool
from models.acquisition.batch import choose
from models.acquisition.strategies.adaptive import Adaptive
from models.acquisition.strategies.margin import Margin
from models.acquisition.strategies.random import Random
from tests.models.acquisition.naive import classify, unit


def make_pool(copies: int = 5) -> Pool:
    """Twenty images with so many copies of each, and four labeled ones of four classes."""
    points = torch.cat([unit(20, 8).repeat(copies, 1), torch.eye(8)[:4]])
    rows = torch.arange(20 * copies)
    return Pool(points, rows, classify, torch.arange(len(rows), len(rows) + 4), torch.arange(4))


def test_without_options_it_is_what_the_strategy_says():
    pool = make_pool()

    assert choose(Margin(), pool, 7).indices.tolist() == Margin().rank(pool, 7).indices.tolist()


def test_of_near_duplicates_the_first_is_picked():
    pool = make_pool()

    distinct = choose(Margin(), pool, 20, max_cosine=0.99)

    assert sorted((distinct.indices % 20).tolist()) == list(range(20))
    best = Margin().rank(make_pool(copies=1), 20).indices
    assert (distinct.indices % 20).tolist() == best.tolist()


def test_near_duplicates_are_told_by_embeddings_as_they_are():
    pool = make_pool()
    centred = replace(pool, mean=torch.full((8,), 5.0))  # from there, all look alike

    assert len(choose(Margin(), centred, 20, max_cosine=0.99).indices) == 20


def test_what_is_close_to_a_labeled_or_reserved_image_is_left_out():
    pool = make_pool()
    reserved = replace(pool, rows=pool.rows[1:], pending=pool.rows[:1])

    picks = choose(Margin(), reserved, 100, max_cosine=0.99).indices

    assert 0 not in (reserved.rows[picks] % 20).tolist()
    assert len(picks) == 19


def test_fewer_are_left_when_all_are_alike():
    same = torch.ones(50, 4) / 2
    pool = Pool(same, torch.arange(50), classify)

    assert len(choose(Random(), pool, 10, max_cosine=0.9).indices) == 1


def test_within_bounds_nothing_counts_as_drawn_from_the_whole_pool():
    ranking = choose(Adaptive(uniform=1.0), make_pool(), 5, max_cosine=0.99)

    assert ranking.propensities is None


def test_balance_prefers_labels_with_few_images():
    # Class 0 has all the small margins and many labels, class 1 none of either.
    first = torch.tensor([1.0, 0.9, 0, 0]).repeat(30, 1)
    second = torch.tensor([0, 1.0, 0, 0]).repeat(10, 1)
    points = torch.nn.functional.normalize(torch.cat([first, second, torch.eye(4)[[0] * 9]]), dim=1)
    pool = Pool(
        points, torch.arange(40), classify, torch.arange(40, 49), torch.zeros(9, dtype=torch.long)
    )

    plain = choose(Margin(), pool, 10).indices
    balanced = choose(Margin(), pool, 10, balanced=True).indices

    assert int((plain >= 30).sum()) == 0
    assert int((balanced >= 30).sum()) == 9  # until class 1 has as many as class 0
    assert len(set(balanced.tolist())) == 10


def test_an_empty_pool_gives_nothing():
    pool = replace(make_pool(), rows=torch.arange(0))

    assert len(choose(Margin(), pool, 3, max_cosine=0.9, balanced=True).indices) == 0
