"""Folds in which each class has its share."""

import pytest
import torch

from models.evaluation.folds import stratified_folds

TARGETS = torch.arange(200) % 4


def test_every_image_is_judged_once_and_each_class_has_its_share():
    targets = torch.tensor([0] * 10 + [1] * 5 + [2] * 7)

    folds = stratified_folds(targets, 3)

    assert sorted(torch.cat([fold.test for fold in folds]).tolist()) == list(range(22))
    for fold in folds:
        assert set(fold.train.tolist()).isdisjoint(fold.test.tolist())
        assert len(fold.train) + len(fold.test) == 22
        shares = torch.bincount(targets[fold.test], minlength=3) - torch.tensor([10, 5, 7]) / 3
        assert shares.abs().max() < 1
    assert {len(fold.test) for fold in folds} == {7, 8}


def test_a_seed_gives_the_same_folds_and_another_others():
    first, second, third = (stratified_folds(TARGETS, 5, seed)[0].test for seed in (0, 0, 1))

    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_a_class_with_too_few_images_is_named():
    with pytest.raises(ValueError, match="one has 2"):
        stratified_folds(torch.tensor([0, 0, 0, 1, 1]), 3)
