"""What every augmentation promises."""

import pytest
import torch
from torch import Generator
from torch.nn import functional as F

from models.augmentation import apply, beta
from models.augmentation.kinds import augmentations


def batch(count: int = 6, side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(count, 3, side, side, generator=Generator().manual_seed(1))
    return images, F.one_hot(torch.arange(count) % 3, 3).float()


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.fixture(params=augmentations)
def augmentation(request):
    return augmentations[request.param]()


def test_images_keep_their_shape_and_range_and_targets_their_sum(augmentation):
    images, targets = batch()

    changed, shares = augmentation(images, targets, generator())

    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert torch.allclose(shares.sum(dim=1), torch.ones(len(images)))
    assert not torch.equal(changed, images)


def test_the_given_images_stay_as_they_are(augmentation):
    images, targets = batch()
    before = images.clone(), targets.clone()

    augmentation(images, targets, generator())

    assert torch.equal(images, before[0])
    assert torch.equal(targets, before[1])


def test_the_same_chance_gives_the_same_images(augmentation):
    first, second = (augmentation(*batch(), generator(3)) for _ in range(2))
    different = augmentation(*batch(), generator(4))

    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], different[0])


def test_chance_elsewhere_is_not_touched(augmentation):
    before = torch.get_rng_state()

    augmentation(*batch(), generator())

    assert torch.equal(torch.get_rng_state(), before)


def test_every_image_draws_for_itself(augmentation):
    image = torch.rand(1, 3, 64, 64, generator=generator(1))
    images = torch.cat([image.expand(16, -1, -1, -1), 1 - image.expand(16, -1, -1, -1)])
    targets = F.one_hot(torch.arange(32) // 16, 2).float()

    changed, _ = augmentation(images, targets, generator())

    different = {tuple(copy.flatten().tolist()) for copy in changed[:16]}
    assert len(different) > 4


def test_augmentations_follow_one_another():
    policy = [augmentations["geometric"](), augmentations["mixup"]()]
    images, targets = batch()

    together = apply(policy, images, targets, generator())

    source = generator()
    stepwise = policy[1](*policy[0](images, targets, source), source)
    assert torch.equal(together[0], stepwise[0])
    assert torch.equal(together[1], stepwise[1])


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_beta_has_its_mean_and_variance(alpha):
    values = beta(20_000, alpha, generator())

    # Of Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1)); 20,000 draws have an error below 0.01.
    assert values.mean() == pytest.approx(0.5, abs=0.01)
    assert values.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.01)
