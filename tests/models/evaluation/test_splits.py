"""Splits that later images hardly disturb."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.evaluation.splits import assign

SHARES = [0.7, 0.2, 0.1]


def hashes(size, seed=0):
    return torch.randint(2**60, (size,), generator=torch.Generator().manual_seed(seed))


def test_each_class_is_divided_by_the_shares():
    classes = torch.tensor([0] * 100 + [1] * 50 + [-1] * 10)

    parts = assign(hashes(160), classes, SHARES)

    for label, expected in ((0, [70, 20, 10]), (1, [35, 10, 5]), (-1, [7, 2, 1])):
        assert torch.bincount(parts[classes == label], minlength=3).tolist() == expected


def test_the_order_of_the_images_does_not_matter():
    keys, classes = hashes(60), torch.arange(60) % 3
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))

    shuffled = assign(keys[order], classes[order], SHARES)

    assert torch.equal(shuffled, assign(keys, classes, SHARES)[order])


@given(size=st.integers(0, 60), seed=st.integers(0, 1000), shares=st.sampled_from([SHARES, [1.0]]))
def test_one_more_image_moves_one_other_at_each_cut_at_most(size, seed, shares):
    keys, classes = hashes(size + 1, seed), torch.arange(size + 1) % 2
    new = classes[size]

    before = assign(keys[:size], classes[:size], shares)
    after = assign(keys, classes, shares)[:size]

    changed = before != after
    assert int(changed.sum()) <= len(shares) - 1
    assert bool((classes[:size][changed] == new).all())


@pytest.mark.parametrize(("size", "expected"), [(0, []), (1, [0])])
def test_few_images_are_no_trouble(size, expected):
    assert assign(hashes(size), torch.zeros(size, dtype=torch.long), SHARES).tolist() == expected
