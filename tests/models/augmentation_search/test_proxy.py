"""The proxy that judges augmentations."""

import pytest
import torch
from torch import Generator
from torch.nn import functional as F

from models.augmentation.kinds.autoaugment import AutoAugment
from models.augmentation.kinds.geometric import Geometric
from models.augmentation_search.candidates import NOTHING, PolicyCandidate
from models.augmentation_search.proxy import Proxy, balanced


def test_an_augmentation_that_turns_a_class_into_another_lowers_the_score(encoder, noisy):
    targets = torch.arange(40) % 2
    pictures = torch.full((40, 3, 16, 16), 0.5)
    pictures[targets == 0, :, :4] = 0.9  # bright above
    pictures[targets == 1, :, -4:] = 0.9  # bright below
    proxy = Proxy(encoder, noisy(pictures, 0.2), targets)
    still = Geometric(crop=1.0, ratio=1.0, flip=0.5, degrees=0.0)
    turned = Geometric(crop=1.0, ratio=1.0, flip=0.5, flip_vertical=0.5, degrees=0.0)

    harmless, harmful = (proxy.judge(PolicyCandidate((policy,))) for policy in (still, turned))

    assert harmful.score < proxy.judge(NOTHING).score
    assert harmful.score < harmless.score


def test_a_class_with_its_own_policy_differs_by_that_alone(grey):
    proxy = grey()
    crop, weak_crop = (Geometric(crop=0.3),), (Geometric(crop=0.9),)

    mixed = PolicyCandidate(crop, ((1, weak_crop),))

    assert torch.equal(
        proxy.judge(PolicyCandidate(crop, ((0, weak_crop), (1, weak_crop)))).likelihood,
        proxy.judge(PolicyCandidate(weak_crop)).likelihood,
    )
    assert torch.equal(
        proxy.judge(PolicyCandidate(crop, ((0, crop),))).likelihood,
        proxy.judge(PolicyCandidate(crop)).likelihood,
    )
    assert not torch.equal(
        proxy.judge(mixed).likelihood, proxy.judge(PolicyCandidate(weak_crop)).likelihood
    )


def test_operations_are_embedded_as_the_augmentation_would_apply_them(grey, encoder):
    proxy = grey(32)
    augmentation = AutoAugment(policy="cifar10")

    chained = proxy._chained((augmentation,), 1)

    values = proxy._values(torch.arange(32))
    changed, _ = augmentation(values, F.one_hot(proxy.targets).float(), Generator().manual_seed(1))
    # Rounding of embeddings, in another order of addition.
    assert torch.allclose(chained, proxy._reduce(proxy._embed(changed)), atol=1e-5)


def test_nothing_is_embedded_twice(grey, count_embedded):
    counts = count_embedded()
    proxy = grey(32, views=2)

    proxy.judge(PolicyCandidate((Geometric(crop=0.5),)))
    once = sum(counts)
    proxy.judge(PolicyCandidate((Geometric(crop=0.5),), ((0, ()),)))
    crops = sum(counts)
    proxy.judge(PolicyCandidate((AutoAugment(policy="svhn"),)))
    operations = sum(counts)
    proxy.judge(PolicyCandidate((AutoAugment(policy="svhn"),), ((0, ()),)))

    assert once == crops == 32 + 2 * 32  # clean, and two views
    assert crops < operations <= crops + 2 * 32
    assert sum(counts) == operations


def test_images_are_drawn_from_the_classes_in_turn():
    targets = torch.tensor([0] * 50 + [1] * 3 + [2] * 10)

    sample = balanced(targets, 15)

    assert torch.bincount(targets[sample]).tolist() == [6, 3, 6]
    assert len(set(sample.tolist())) == 15
    assert sample.tolist() == sorted(sample.tolist())
    assert balanced(targets, 15, seed=1).tolist() != sample.tolist()
    assert len(balanced(targets, 500)) == 63


def test_a_limit_bounds_what_is_embedded(grey, count_embedded):
    counts = count_embedded()

    grey(64, limit=20).judge(NOTHING)

    assert sum(counts) == 20


def test_a_limit_that_leaves_one_image_of_a_class_is_refused_with_advice(grey):
    with pytest.raises(ValueError, match=r"3 images are too few .* use at least 4"):
        grey(limit=3)


def test_embeddings_that_are_no_numbers_are_refused_with_advice(grey, encoder):
    encoder.mean.fill_(float("nan"))

    with pytest.raises(ValueError, match="promote another version"):
        grey().judge(NOTHING)
