"""RandAugment."""

from typing import Any

import pytest
import torch
from torch import Generator
from torchvision.transforms.v2 import functional as tv

from models.augmentation.kinds import randaugment
from models.augmentation.kinds.randaugment import RandAugment
from models.augmentation.operations import FOURTEEN, GREY

PIXELS = torch.randint(256, (40, 3, 16, 16), generator=Generator().manual_seed(0)).to(torch.uint8)
IMAGES = PIXELS.float() / 255
TARGETS = torch.ones(40, 1)


def only(monkeypatch, *names: str) -> None:
    """These are all the operations that there are."""
    monkeypatch.setattr(randaugment, "FOURTEEN", names)


def augmented(seed: int = 0, **options: Any) -> torch.Tensor:
    changed, _ = RandAugment(**options)(IMAGES, TARGETS, Generator().manual_seed(seed))
    return changed


@pytest.mark.parametrize(("m", "degrees"), [(10.0, 30.0), (5.0, 15.0)])
def test_strength_ten_rotates_by_thirty_degrees_either_way(monkeypatch, m, degrees):
    only(monkeypatch, "rotate")

    turned = augmented(n=1, m=m)

    lefts, rights = (tv.rotate(PIXELS, way, fill=GREY).float() / 255 for way in (degrees, -degrees))
    is_left, is_right = ((turned == rotation).flatten(1).all(dim=1) for rotation in (lefts, rights))
    assert (is_left ^ is_right).all()
    assert is_left.any()
    assert is_right.any()


@pytest.mark.parametrize(("m", "factors"), [(10.0, (0.1, 1.9)), (5.0, (0.55, 1.45))])
def test_strength_sets_how_far_brightness_is_from_one(monkeypatch, m, factors):
    only(monkeypatch, "brightness")

    lit = augmented(n=1, m=m)

    means = lit.flatten(1).mean(dim=1)
    darker, brighter = (
        tv.adjust_brightness(PIXELS, f).float().flatten(1).mean(1) / 255 for f in factors
    )
    # A value may be rounded another way: 1/255.
    is_darker, is_brighter = ((means - level).abs() < 1 / 255 for level in (darker, brighter))
    assert (is_darker ^ is_brighter).all()
    assert is_darker.any()
    assert is_brighter.any()


def test_n_operations_follow_one_another(monkeypatch):
    only(monkeypatch, "solarize")  # at strength 10: invert

    assert torch.equal(augmented(n=1, m=10.0), (255 - PIXELS).float() / 255)
    assert torch.equal(augmented(n=2, m=10.0), IMAGES)
    assert torch.equal(augmented(n=3, m=10.0), (255 - PIXELS).float() / 255)


def test_every_operation_is_drawn(monkeypatch):
    batches: list[str] = []

    def operate(images, names, *_):
        batches.extend(names)
        return images

    monkeypatch.setattr(randaugment, "operate", operate)

    for seed in range(7):
        augmented(seed)

    # 560 draws, 40 expected of each, 5 standard deviations.
    counts = [batches.count(name) for name in FOURTEEN]
    assert sum(counts) == 560
    assert min(counts) > 10
    assert max(counts) < 70


@pytest.mark.parametrize("options", [{"n": 0}, {"n": 11}, {"m": 0.0}, {"m": 10.5}])
def test_what_is_out_of_range_is_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        RandAugment(**options)
