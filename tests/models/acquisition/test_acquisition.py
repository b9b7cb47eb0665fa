"""The pool as strategies see it, and how images that can be scored are ranked."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from models.acquisition import BLOCK_ROWS, NoClasses, Pool, closeness, doubt, sharpen, top
from tests.models.acquisition.naive import classify, margins, unit


def make_pool(images: int, **fields: Any) -> Pool:
    return Pool(unit(images, 8), torch.arange(images), classify, **fields)


def test_blocks_change_nothing():
    pool = make_pool(2 * BLOCK_ROWS + 3)
    whole = closeness(classify(pool.embeddings))

    assert torch.allclose(pool.score(closeness), whole, atol=1e-6)
    gaps = torch.arange(0, len(pool), 5)
    assert torch.allclose(pool.part(gaps).score(closeness), whole[gaps], atol=1e-6)
    backwards = gaps.flip(0)
    assert torch.allclose(pool.part(backwards).score(closeness), whole[backwards], atol=1e-6)


def test_labels_and_probabilities_of_two_moments_are_refused():
    classes = classify(unit(1, 8)).shape[1]
    names = tuple(str(n) for n in range(classes))

    make_pool(3, names=names, labeled=torch.tensor([0]), targets=torch.tensor([classes - 1]))

    with pytest.raises(ValueError, match="probabilities of"):
        make_pool(3, names=(*names, "new"))
    with pytest.raises(ValueError, match="is none of"):
        make_pool(3, names=names, labeled=torch.tensor([0]), targets=torch.tensor([classes]))


def test_ties_keep_the_order_of_the_pool():
    indices, _, _ = top(torch.tensor([1.0, 2.0, 1.0, 2.0, 1.0]), 4)

    assert indices.tolist() == [1, 3, 0, 2]


def test_closeness_and_doubt_are_those_of_the_likeliest_two():
    probabilities = torch.rand(50, 5, generator=torch.Generator().manual_seed(0)).softmax(dim=1)

    assert torch.allclose(closeness(probabilities).double(), margins(probabilities), atol=1e-6)
    assert torch.allclose(doubt(probabilities), 1 - probabilities.amax(dim=1), atol=1e-6)


def test_sharpening_is_a_temperature_of_the_logits():
    logits = 4 * unit(20, 6)

    assert torch.allclose(
        sharpen(logits.softmax(dim=1), 0.5), (logits / 0.5).softmax(dim=1), atol=1e-5
    )
    certain = torch.tensor([[1.0, 0.0]])
    assert sharpen(certain, 0.5).isfinite().all()


def test_a_sample_is_the_same_each_time_and_of_the_whole_pool():
    pool = make_pool(100)

    sample = pool.sample(30)

    assert sample.tolist() == pool.sample(30).tolist() == sorted(set(sample.tolist()))
    assert sample.tolist() != replace(pool, seed=1).sample(30).tolist()
    assert pool.sample(100).tolist() == list(range(100))


def test_images_are_compared_without_the_mean():
    mean = torch.full((8,), 0.2)
    pool = make_pool(10, mean=mean)

    vectors = pool.vectors(torch.tensor([3, 7]))

    expected = torch.nn.functional.normalize(pool.embeddings[[3, 7]] - mean, dim=1)
    assert torch.allclose(vectors, expected, atol=1e-6)


def test_labeled_and_pending_images_are_covered():
    pool = make_pool(
        6, labeled=torch.tensor([4]), targets=torch.tensor([0]), pending=torch.tensor([5])
    )

    assert pool.covered.tolist() == [4, 5]


def test_a_pool_without_classes_says_what_is_missing():
    with pytest.raises(NoClasses, match="at least two classes"):
        Pool(unit(3, 8), torch.arange(3), None).score(closeness)
