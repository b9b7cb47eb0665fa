"""Operations on images that augmentation policies choose from."""

import pytest
import torch
from torch import Generator

from models.augmentation.operations import FOURTEEN, GREY, SCALES, Scale, operate, operations

IMAGES = torch.randint(256, (3, 3, 20, 20), generator=Generator().manual_seed(0)).to(torch.uint8)
SOME = torch.tensor([0.3, 0.7, 1.0])


def ramp(side: int = 16) -> torch.Tensor:
    """One image: 0, 1, 2, ... from left to right in red, from top to bottom in green."""
    line = torch.arange(side, dtype=torch.uint8)
    return torch.stack([line.expand(side, side), line.view(-1, 1).expand(side, side),
                        torch.full((side, side), 7, dtype=torch.uint8)]).unsqueeze(0)  # fmt: skip


def perform(name: str, images: torch.Tensor, magnitude: float) -> torch.Tensor:
    return operations[name](images, torch.full((len(images),), magnitude))


@pytest.mark.parametrize("name", operations)
def test_each_image_is_changed_as_if_it_were_alone(name):
    alone = [operations[name](IMAGES[n : n + 1], SOME[n : n + 1]) for n in range(3)]

    together = operations[name](IMAGES, SOME)

    assert together.dtype == torch.uint8
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("name", SCALES)
def test_at_no_strength_every_operation_leaves_the_image_as_it_is(name):
    unchanged = perform(name, IMAGES, SCALES[name].at(0.0))

    assert torch.equal(unchanged, IMAGES)


def test_solarizing_inverts_from_the_threshold_on():
    values = torch.tensor([0, 127, 128, 255], dtype=torch.uint8).expand(1, 3, 4, 4)

    assert perform("solarize", values, 128.0)[0, 0, 0].tolist() == [0, 127, 127, 0]
    assert torch.equal(perform("solarize", values, 256.0), values)
    assert torch.equal(perform("solarize", values, 0.0), 255 - values)


@pytest.mark.parametrize(
    ("bits", "mask"), [(4.0, 0b11110000), (4.4, 0b11110000), (2.0, 0b11000000)]
)
def test_posterizing_keeps_the_highest_bits(bits, mask):
    assert torch.equal(perform("posterize", IMAGES, bits), IMAGES & mask)


def test_factors_of_zero_give_black_grey_and_the_mean():
    black, mean, grey = (perform(name, IMAGES, 0.0) for name in ("brightness", "contrast", "color"))

    assert (black == 0).all()
    assert (mean == mean[:, :1, :1, :1]).all()
    assert (grey == grey[:, :1]).all()
    assert grey.float().std() > 10


def test_brightness_multiplies():
    dark = IMAGES // 4

    assert torch.equal(perform("brightness", dark, 2.0), 2 * dark)


def test_autocontrast_stretches_each_channel_to_the_whole_range():
    stretched = operations["autocontrast"](IMAGES // 4 + 60, SOME).flatten(2)

    assert (stretched.amin(dim=2) == 0).all()
    assert (stretched.amax(dim=2) >= 254).all()  # the kernel rounds down


def test_equalizing_spreads_values_evenly():
    # Squares of evenly spread numbers: most are dark.
    dark = (torch.linspace(0, 1, 64 * 64) ** 2 * 255).to(torch.uint8).view(1, 1, 64, 64)

    even = operations["equalize"](dark.expand(1, 3, -1, -1), SOME[:1]).float()

    assert dark.float().mean() < 90
    assert even.mean() == pytest.approx(127.5, abs=8)  # 1/16 of the values are the same, 0


def test_a_translation_is_a_share_of_the_side_to_the_right_or_down():
    right = perform("translate-x", ramp(), 0.25)
    up = perform("translate-y", ramp(), -0.25)

    assert right[0, 0, 5].tolist() == [128] * 4 + list(range(12))
    assert up[0, 1, :, 5].tolist() == list(range(4, 16)) + [128] * 4


def test_a_shear_moves_each_row_by_the_slope():
    sheared = perform("shear-x", ramp(), 0.5)
    up = perform("shear-y", ramp(), 0.5)

    assert sheared[0, 0, 0].tolist() == list(range(16))
    assert sheared[0, 0, 8].tolist() == list(range(4, 16)) + [128] * 4
    assert up[0, 1, :, 8].tolist() == list(range(4, 16)) + [128] * 4


def test_a_rotation_turns_counterclockwise_about_the_middle():
    quarter = perform("rotate", ramp(), 90.0)
    eighth = perform("rotate", ramp(), 45.0)

    assert torch.equal(quarter, ramp().rot90(dims=(2, 3)))
    assert eighth[0, :, 0, 0].tolist() == GREY  # a corner that nothing turns into


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("rotate", (30.0, -30.0)),
        ("shear-x", (0.3, -0.3)),
        ("translate-y", (150 / 331, -150 / 331)),
        ("color", (1.9, 0.1)),
        ("sharpness", (1.9, 0.1)),
        ("solarize", (0.0, 0.0)),
        ("posterize", (4.0, 4.0)),
    ],
)
def test_full_strength_is_that_of_the_paper_on_both_sides(name, ends):
    scale = SCALES[name]

    assert (scale.at(1.0), scale.at(1.0, mirrored=True)) == pytest.approx(ends)


def test_each_image_gets_its_operation_at_its_strength():
    names = ["solarize", "identity", "posterize"]

    changed = operate(IMAGES.float() / 255, names, [0.5, 0.5, 1.0], SCALES, Generator())

    expected = [
        torch.where(IMAGES[0] < 128, IMAGES[0], 255 - IMAGES[0]),
        IMAGES[1],
        IMAGES[2] & 240,
    ]
    assert torch.equal(changed, torch.stack(expected).float() / 255)


def test_signs_are_drawn_evenly_and_from_the_given_generator_only():
    white = torch.ones(400, 3, 8, 8)
    still = torch.get_rng_state()

    shifted = operate(
        white,
        ["translate-x"] * 400,
        [1.0] * 400,
        {"translate-x": Scale(0.0, 0.5, signed=True)},
        Generator().manual_seed(0),
    )

    to_the_right = int((shifted[:, 0, 0, 0] < 1).sum())
    to_the_left = int((shifted[:, 0, 0, -1] < 1).sum())
    assert to_the_right + to_the_left == 400
    assert 170 <= to_the_right <= 230  # 200 expected, 3 standard deviations
    assert torch.equal(torch.get_rng_state(), still)


def test_fourteen_operations_are_those_of_randaugment():
    assert len(FOURTEEN) == 14
    assert set(operations) - set(FOURTEEN) == {"invert"}
    assert {name for name in FOURTEEN if name not in SCALES} == {
        "identity",
        "autocontrast",
        "equalize",
    }
