"""Contact sheets."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator

from models.augmentation.contact_sheet import FRAME, GAP, contact_sheet, draw_views
from models.augmentation.kinds import augmentations
from models.augmentation.kinds.cutmix import Cutmix
from models.augmentation.kinds.noise import Noise

SIDE = 16
IMAGES = torch.rand(4, 3, SIDE, SIDE, generator=Generator().manual_seed(0))
PITCH = SIDE + 2 * FRAME + GAP


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def pixels(sheet: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(sheet))
    assert image.format == "PNG"
    return np.asarray(image)


def tile(sheet: bytes, row: int, column: int) -> np.ndarray:
    y, x = row * PITCH + FRAME, column * PITCH + FRAME
    return pixels(sheet)[y : y + SIDE, x : x + SIDE]


@pytest.mark.parametrize(
    ("count", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (4, 2, 2), (5, 2, 3), (16, 4, 4)]
)
def test_a_sheet_is_about_as_high_as_wide(count, rows, columns):
    sheet = pixels(contact_sheet(torch.zeros(count, 3, SIDE, SIDE), side=SIDE))

    assert sheet.shape == (rows * PITCH - GAP, columns * PITCH - GAP, 3)


def test_tiles_keep_their_pixels_and_go_from_left_to_right():
    sheet = contact_sheet(IMAGES, side=SIDE)

    for number, image in enumerate(IMAGES):
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        assert (tile(sheet, number // 2, number % 2) == pixels).all()


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_the_gap_can_be_told_from_tiles_of_any_brightness(value):
    sheet = pixels(contact_sheet(torch.full((2, 3, SIDE, SIDE), value), side=SIDE))

    between = sheet[SIDE // 2, FRAME + SIDE : PITCH + FRAME, 0]

    assert between.tolist() == [255] * FRAME + [0] * GAP + [255] * FRAME


@pytest.mark.parametrize("side", [8, 40])
def test_tiles_are_resized_without_changing_their_light(side):
    halves = torch.zeros(1, 3, SIDE, SIDE)
    halves[..., SIDE // 2 :] = 1.0

    sheet = pixels(contact_sheet(halves, side=side))[FRAME:-FRAME, FRAME:-FRAME]

    assert sheet.shape == (side, side, 3)
    assert (sheet[:, 0] == 0).all()
    assert (sheet[:, -1] == 255).all()
    assert sheet.mean() == pytest.approx(127.5, abs=1)  # rounding to 8 bits


def test_values_that_are_no_numbers_or_out_of_range_are_shown_nevertheless():
    strange = torch.full((4, 3, SIDE, SIDE), 0.5)
    strange[0], strange[1], strange[2] = torch.nan, 2.0, -1.0

    sheet = contact_sheet(strange, side=SIDE)

    levels = [int(tile(sheet, n // 2, n % 2).mean()) for n in range(4)]
    assert levels == [0, 255, 0, 128]


@pytest.mark.parametrize("name", augmentations)
def test_the_image_itself_comes_first_and_views_of_it_follow(name):
    images = torch.rand(4, 3, 64, 64, generator=generator())  # not too small to be blurred

    tiles = draw_views(images, [augmentations[name]()], count=12, generator=generator())

    assert tiles.shape == (13, 3, 64, 64)
    assert torch.equal(tiles[0], images[0])
    assert len({float(view.std()) for view in tiles}) > 2


def test_without_a_policy_every_view_is_the_image():
    tiles = draw_views(IMAGES, [], count=3, generator=generator())

    assert (tiles == IMAGES[0]).all()


def test_the_same_seed_draws_the_same_views_however_many():
    few = draw_views(IMAGES, [Noise()], count=2, generator=generator(5))
    many = draw_views(IMAGES, [Noise()], count=6, generator=generator(5))
    different = draw_views(IMAGES, [Noise()], count=2, generator=generator(6))

    assert torch.equal(few, many[:3])
    assert not torch.equal(few[1:], different[1:])


def test_what_mixes_takes_the_other_images():
    flat = torch.tensor([0.0, 0.25, 0.5, 1.0]).view(-1, 1, 1, 1).expand(4, 3, SIDE, SIDE)

    tiles = draw_views(flat, [Cutmix()], count=40, generator=generator())

    assert set(tiles.unique().tolist()) == {0.0, 0.25, 0.5, 1.0}


def test_an_image_alone_is_mixed_with_itself():
    tiles = draw_views(IMAGES[:1], [Cutmix()], count=5, generator=generator())

    assert (tiles == IMAGES[0]).all()
