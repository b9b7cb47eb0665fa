"""AutoAugment."""

from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Generator
from torchvision.transforms.v2 import functional as tv

from models.augmentation.kinds import autoaugment
from models.augmentation.kinds.autoaugment import (
    FACTORS,
    AutoAugment,
    Name,
    Policy,
    Step,
    sub_policies,
)
from models.augmentation.operations import SCALES, operations

PIXELS = torch.randint(256, (40, 3, 16, 16), generator=Generator().manual_seed(0)).to(torch.uint8)
IMAGES = PIXELS.float() / 255


def augmented(monkeypatch, *pairs: tuple[Step, Step]) -> torch.Tensor:
    """The images by a policy that is made of these pairs."""
    monkeypatch.setattr(autoaugment, "sub_policies", lambda _: list(pairs))
    return AutoAugment()(IMAGES, torch.ones(40, 1), Generator().manual_seed(0))[0]


def same(changed: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    return (changed == pixels.float() / 255).flatten(1).all(dim=1)


@pytest.mark.parametrize("policy", get_args(Policy))
def test_a_policy_has_25_pairs_of_known_operations(policy):
    pairs = sub_policies(policy)

    steps = [step for pair in pairs for step in pair]
    assert len(pairs) == 25
    assert len(steps) == 50
    assert {step.operation for step in steps} <= set(operations)
    assert all(0 <= step.probability <= 1 and 0 <= step.level <= 9 for step in steps)
    # Only what has a magnitude has a level.
    assert all(step.level == 0 for step in steps if step.operation not in SCALES)


def test_the_policies_are_those_of_the_paper():
    first = {policy: sub_policies(policy)[0] for policy in get_args(Policy)}

    assert first == {
        "imagenet": (Step("posterize", 0.4, 8), Step("rotate", 0.6, 9)),
        "cifar10": (Step("invert", 0.1, 0), Step("contrast", 0.2, 6)),
        "svhn": (Step("shear-x", 0.9, 4), Step("invert", 0.2, 0)),
    }


def test_the_second_step_follows_the_first(monkeypatch):
    pair = (Step("invert", 1.0, 0), Step("posterize", 1.0, 9))

    changed = augmented(monkeypatch, pair)

    assert same(changed, (255 - PIXELS) & 0b11110000).all()


def test_each_image_draws_one_pair(monkeypatch):
    never = Step("identity", 1.0, 0)

    changed = augmented(
        monkeypatch, (Step("invert", 1.0, 0), never), (never, Step("posterize", 1.0, 9))
    )

    inverted, posterized = same(changed, 255 - PIXELS), same(changed, PIXELS & 0b11110000)
    assert (inverted ^ posterized).all()
    assert 10 <= inverted.sum() <= 30  # 20 expected, 3 standard deviations


def test_a_step_is_taken_with_its_probability(monkeypatch):
    changed = augmented(monkeypatch, (Step("invert", 0.25, 0), Step("invert", 0.0, 0)))

    inverted, unchanged = same(changed, 255 - PIXELS), same(changed, PIXELS)
    assert (inverted ^ unchanged).all()
    assert 2 <= inverted.sum() <= 18  # 10 expected, 3 standard deviations


def test_level_nine_is_the_end_of_the_range_and_colour_starts_at_a_tenth(monkeypatch):
    still = Step("identity", 1.0, 0)

    pale = augmented(monkeypatch, (Step("color", 1.0, 0), still))
    bright = augmented(monkeypatch, (Step("brightness", 1.0, 9), still))

    # The factors are float32, so a value may be rounded another way: 1/255.
    assert torch.allclose(pale, tv.adjust_saturation(PIXELS, 0.1).float() / 255, atol=1.01 / 255)
    assert torch.allclose(bright, tv.adjust_brightness(PIXELS, 1.9).float() / 255, atol=1.01 / 255)
    assert FACTORS["contrast"].at(1.0, mirrored=True) == 1.9


def test_every_operation_can_be_named():
    assert set(get_args(Name)) == set(operations)


def test_a_policy_that_was_found_is_applied():
    pair = (Step("invert", 1.0, 0), Step("posterize", 1.0, 9))

    changed, _ = AutoAugment(policy=(pair,))(IMAGES, torch.ones(40, 1), Generator().manual_seed(0))

    assert same(changed, (255 - PIXELS) & 0b11110000).all()


def test_what_is_drawn_says_what_happens_and_leaves_out_what_changes_nothing():
    pairs = (
        (Step("identity", 1.0, 0), Step("rotate", 1.0, 9)),
        (Step("invert", 0.0, 0), Step("color", 1.0, 0)),
    )

    chains = AutoAugment(policy=pairs).draw(40, Generator().manual_seed(0))

    assert set(chains) == {(("rotate", 30.0),), (("rotate", -30.0),), (("color", 0.1),)}


def test_two_policies_meet_the_same_luck():
    policies = [
        AutoAugment(policy=((Step(name, 0.5, 1), Step("invert", 0.5, 0)),))
        for name in ("rotate", "color")
    ]

    first, second = (policy.draw(40, Generator().manual_seed(2)) for policy in policies)

    assert [len(chain) for chain in first] == [len(chain) for chain in second]


STEP = {"operation": "rotate", "probability": 0.5, "level": 3}
STILL = {"operation": "identity", "probability": 0.0, "level": 0}


def test_a_policy_that_was_found_is_read_from_json():
    adapter = TypeAdapter(AutoAugment)

    read = adapter.validate_python({"policy": [[STEP, STILL]]})

    assert read == AutoAugment(policy=((Step("rotate", 0.5, 3), Step("identity", 0.0, 0)),))
    assert adapter.dump_python(read, mode="json") == {"policy": [[STEP, STILL]]}
    step = adapter.json_schema()["$defs"]["Step"]["properties"]
    assert step["operation"]["enum"] == list(get_args(Name))


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ([[STEP | {"level": 10}, STEP]], "level must be from 0 to 9, got 10"),
        ([[STEP, STEP | {"probability": 1.5}]], "probability must be from 0 to 1, got 1.5"),
        ([[STEP, STEP | {"operation": "spin"}]], "should be 'identity', 'autocontrast'"),
        ([[STEP, STEP], [STEP]], "must have 2 steps, number 2 has 1"),
        ([], "must have 1 to 100 sub-policies, got 0"),
        ("mnist", "should be 'imagenet', 'cifar10' or 'svhn'"),
    ],
)
def test_a_policy_out_of_bounds_is_refused_with_what_would_do(policy, message):
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(AutoAugment).validate_python({"policy": policy})
