"""Losses that compare images."""

import math

import pytest
import torch
from torch import Generator, Tensor

from models.pretraining.losses import Contrast, swapped

LOSSES = ["info_nce", "nce", "triplet"]
SIMILARITIES = ["cosine", "squared_euclidean"]


def embeddings(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 5, generator=Generator().manual_seed(seed))


def similarity(contrast: Contrast, first: Tensor, second: Tensor) -> float:
    if contrast.similarity == "cosine":
        return float(first @ second) / float(first.norm() * second.norm())
    return -float((first - second).square().sum())


def naive(contrast: Contrast, alike: float, unlike: list[float]) -> float:
    """The loss of one query, as the papers write it."""
    if contrast.loss == "triplet":
        farther = [score for score in unlike if score < alike]
        return max(0.0, max(farther or [min(unlike)]) - alike + contrast.margin)
    positive = math.exp(alike / contrast.temperature)
    negatives = [math.exp(score / contrast.temperature) for score in unlike]
    if contrast.loss == "info_nce":
        return -math.log(positive / (positive + sum(negatives)))
    constant = sum(negatives) / len(negatives)  # Wu et al., equation 8
    noise = len(negatives)  # m P_n of equation 6, in units of P_n
    posterior = [s / constant / (s / constant + noise) for s in (positive, *negatives)]
    return -math.log(posterior[0]) - sum(math.log(1 - p) for p in posterior[1:])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("similar", SIMILARITIES)
@pytest.mark.parametrize("count", [7, 40])  # distances of many are computed in another way
def test_a_loss_is_that_of_loops_over_queries_and_the_negatives_of_others(loss, similar, count):
    contrast = Contrast(loss=loss, similarity=similar, temperature=0.7, margin=0.4)
    queries, keys, negatives = embeddings(6), embeddings(6, seed=1), embeddings(count, seed=2)
    is_own = torch.rand(6, count, generator=Generator().manual_seed(3)) < 0.3

    value = float(contrast(queries, keys, negatives, is_own))

    losses = [
        naive(
            contrast,
            similarity(contrast, query, key),
            [
                similarity(contrast, query, negative)
                for negative, left_out in zip(negatives, excluded, strict=True)
                if not left_out
            ],
        )
        for query, key, excluded in zip(queries, keys, is_own, strict=True)
    ]
    assert value == pytest.approx(sum(losses) / 6, rel=1e-4)  # float32 against double


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("similar", SIMILARITIES)
def test_what_negatives_hold_of_the_query_s_own_image_changes_nothing(loss, similar):
    contrast = Contrast(loss=loss, similarity=similar, temperature=0.7)
    queries, keys, negatives = embeddings(4), embeddings(4, seed=1), embeddings(9, seed=2)
    elsewhere = torch.zeros(4, 9, dtype=torch.bool)
    duplicates = torch.cat([negatives, queries[:1], queries[:1]])
    is_own = torch.cat([elsewhere, torch.ones(4, 2, dtype=torch.bool)], dim=1)

    without = float(contrast(queries, keys, negatives, elsewhere))

    assert float(contrast(queries, keys, duplicates, is_own)) == pytest.approx(without, rel=1e-5)
    assert float(contrast(queries, keys, duplicates, is_own & False)) > without + 0.01


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("similar", SIMILARITIES)
def test_the_loss_of_embeddings_that_are_all_alike_is_that_of_a_guess(loss, similar):
    contrast = Contrast(loss=loss, similarity=similar, temperature=0.3, margin=0.7)
    alike = torch.ones(4, 5)
    negatives, none = torch.ones(9, 5), torch.zeros(4, 9, dtype=torch.bool)

    value = float(contrast(alike, alike, negatives, none))

    assert value == pytest.approx(contrast.chance(9), abs=1e-5)


def test_a_guess_is_one_of_all_for_info_nce_and_the_margin_for_triplets():
    assert Contrast().chance(9) == pytest.approx(math.log(10))
    assert Contrast(loss="triplet", margin=0.7).chance(9) == 0.7
    # One of the data and nine of the noise are each taken for data with a probability of 1 in 10.
    expected = -math.log(1 / 10) - 9 * math.log(9 / 10)
    assert Contrast(loss="nce").chance(9) == pytest.approx(expected)


@pytest.mark.parametrize("similar", SIMILARITIES)
def test_swapped_views_have_the_loss_of_ntxent_in_loops(similar):
    contrast = Contrast(similarity=similar, temperature=0.6)
    first, second = embeddings(5), embeddings(5, seed=1)

    value = float(swapped(contrast, first, second))

    views, losses = [*first, *second], []
    for i in range(10):
        scores = [
            math.exp(similarity(contrast, views[i], views[k]) / contrast.temperature)
            for k in range(10)
        ]
        losses.append(-math.log(scores[(i + 5) % 10] / (sum(scores) - scores[i])))
    assert value == pytest.approx(sum(losses) / 10, rel=1e-4)


def test_swapped_views_that_are_all_alike_have_the_loss_of_one_among_the_rest():
    alike = torch.ones(8, 5)

    value = float(swapped(Contrast(), alike, alike))

    assert value == pytest.approx(math.log(2 * 8 - 1), abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("similar", SIMILARITIES)
@pytest.mark.parametrize("count", [4, 20])
def test_gradients_reach_both_views_and_are_finite_even_where_distances_are_zero(
    loss, similar, count
):
    contrast = Contrast(loss=loss, similarity=similar, margin=4.0)
    first = embeddings(count).requires_grad_()
    second = embeddings(count, seed=1).requires_grad_()

    swapped(contrast, first, second).backward()

    for view in (first, second):
        assert bool(view.grad.isfinite().all())
        assert bool((view.grad.abs().sum(dim=1) > 0).all())


def test_a_triplet_leaves_out_negatives_nearer_than_the_other_view_unless_all_are():
    contrast = Contrast(loss="triplet", similarity="squared_euclidean", margin=0.5)
    query, key = torch.zeros(1, 5), torch.tensor([[0.5, 0, 0, 0, 0]])  # squared distance 0.25
    close = torch.tensor([[0.1, 0, 0, 0, 0], [0.2, 0, 0, 0, 0]])  # 0.01 and 0.04
    distant = torch.tensor([[0.6, 0, 0, 0, 0], [0.8, 0, 0, 0, 0]])  # 0.36 and 0.64

    def loss(negatives):
        return float(contrast(query, key, negatives, torch.zeros(1, len(negatives)).bool()))

    assert loss(torch.cat([close, distant])) == pytest.approx(0.25 - 0.36 + 0.5)
    assert loss(close) == pytest.approx(0.25 - 0.04 + 0.5)


def test_a_triplet_farther_apart_than_the_margin_teaches_nothing():
    contrast = Contrast(loss="triplet", similarity="squared_euclidean", margin=0.5)
    query = torch.zeros(1, 5, requires_grad=True)
    close, distant = torch.full((1, 5), 0.1), torch.ones(3, 5)

    loss = contrast(query, close, distant, torch.zeros(1, 3, dtype=torch.bool))
    loss.backward()

    assert float(loss.detach()) == 0
    assert not bool(query.grad.any())


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"margin": -0.1},
        {"margin": math.inf},
    ],
)
def test_options_that_are_impossible_are_refused(options):
    with pytest.raises(ValueError, match="must"):
        Contrast(**options)
