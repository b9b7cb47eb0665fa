"""A policy for each class."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from models.augmentation import Augmentation, apply
from models.augmentation.kinds import augmentations
from models.augmentation.kinds.mixup import Mixup
from models.augmentation.kinds.noise import Noise
from models.augmentation.per_class import PerClassPolicies

LABELS = torch.tensor([0, 1, 2, 1, 0, 2, 2, 1])
IMAGES = torch.rand(8, 3, 16, 16, generator=Generator().manual_seed(0))
TARGETS = F.one_hot(LABELS, 3).float()


@dataclass(frozen=True, kw_only=True)
class Add:
    """Add a number, and note how many images came together."""

    amount: float
    batches: list[int] = field(default_factory=list, compare=False)

    def __call__(
        self, images: Tensor, targets: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        self.batches.append(len(images))
        return images + self.amount, targets


def generator() -> Generator:
    return Generator().manual_seed(0)


def test_each_image_takes_the_policy_of_its_class_and_keeps_its_place():
    policy = PerClassPolicies(policies={1: [Add(amount=1.0)], 2: []}, default=[Add(amount=2.0)])

    changed, shares = policy(IMAGES, TARGETS, generator())

    added = torch.tensor([2.0, 1.0, 0.0])[LABELS].view(-1, 1, 1, 1)
    assert torch.equal(changed, IMAGES + added)
    assert torch.equal(shares, TARGETS)


def test_without_a_default_other_classes_stay_as_they_are():
    changed, _ = PerClassPolicies(policies={0: [Noise()]})(IMAGES, TARGETS, generator())

    same = (changed == IMAGES).flatten(1).all(dim=1)
    assert torch.equal(same, LABELS != 0)


def test_the_largest_share_decides():
    shares = torch.tensor([[0.6, 0.4, 0.0], [0.4, 0.6, 0.0]])

    changed, _ = PerClassPolicies(policies={1: [Add(amount=1.0)]})(IMAGES[:2], shares, generator())

    assert torch.equal(
        changed - IMAGES[:2] > 0.5, (shares[:, 1] > 0.5).view(-1, 1, 1, 1).expand_as(changed)
    )


def test_images_of_equal_policies_are_processed_together():
    add = Add(amount=1.0)
    policy = PerClassPolicies(policies={0: [add], 2: (Add(amount=1.0, batches=add.batches),)})

    policy(IMAGES, TARGETS, generator())

    assert add.batches == [5]


def test_what_mixes_only_mixes_images_of_its_policy():
    policy = PerClassPolicies(policies={0: [Mixup(alpha=1.0)], 1: [Mixup(alpha=1.0)]}, default=[])

    _, shares = policy(IMAGES.repeat(4, 1, 1, 1), TARGETS.repeat(4, 1), generator())

    theirs = LABELS.repeat(4) == 2
    assert torch.equal(shares[theirs], TARGETS.repeat(4, 1)[theirs])
    assert (shares[~theirs, 2] == 0).all()
    assert (shares[~theirs, :2].amin(dim=1) > 0).any()


def test_it_is_an_augmentation_of_which_others_can_be_made():
    outer = PerClassPolicies(
        policies={}, default=[PerClassPolicies(policies={1: [Add(amount=1.0)]})]
    )

    changed, _ = apply([outer], IMAGES, TARGETS, generator())

    assert isinstance(outer, Augmentation)
    assert torch.equal((changed != IMAGES).flatten(1).all(dim=1), LABELS == 1)


def test_it_is_no_plug_in():
    assert "per_class" not in augmentations


def test_a_negative_class_is_refused():
    with pytest.raises(ValueError, match=r"from 0, got policies for \[-1\]"):
        PerClassPolicies(policies={-1: []})
