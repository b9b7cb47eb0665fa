"""Random views of images."""

import pytest
import torch
from torch import Generator, Tensor

from models.pretraining.views import Views, normalised, tiles, uncoloured

SIDE = 48
STILL = {"flip": 0.0, "colour": 0.0, "grey": 0.0, "blur": 0.0}


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def noise(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=generator(seed))


def ramps(count: int) -> Tensor:
    """Where each pixel is: across in red, down in green."""
    line = torch.linspace(0, 1, SIDE)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)]).repeat(count, 1, 1, 1)


def plain(count: int, *colour: float) -> Tensor:
    return torch.tensor(colour).view(1, 3, 1, 1).expand(count, 3, SIDE, SIDE)


@pytest.mark.parametrize("side", [None, 24, 64])
def test_views_keep_the_range_of_images_and_have_the_side_asked_for(side):
    views = Views(degrees=20.0, solarize=0.5)(noise(8), generator(), side)

    assert views.shape == (8, 3, side or SIDE, side or SIDE)
    assert 0 <= float(views.min()) <= float(views.max()) <= 1


def test_the_generator_alone_decides_what_views_are():
    images, views = noise(4), Views()

    torch.manual_seed(1)
    first = views(images, generator())
    torch.manual_seed(2)

    assert torch.equal(views(images, generator()), first)
    assert not torch.equal(views(images, generator(1)), first)


def test_every_image_has_a_view_of_its_own():
    views = Views()(ramps(1).repeat(6, 1, 1, 1), generator())

    assert len({tuple(view.flatten().tolist()) for view in views}) == 6


@pytest.mark.parametrize("crop", [0.2, 0.6])
def test_a_crop_shows_at_least_its_share_of_the_area(crop):
    views = Views(crop=crop, **STILL)(ramps(40), generator())

    across = views[:, 0].flatten(1)
    down = views[:, 1].flatten(1)
    area = (across.amax(1) - across.amin(1)) * (down.amax(1) - down.amin(1))
    assert crop - 0.01 < float(area.min()) < crop + 0.1
    assert float(area.max()) > 0.8


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_flip_mirrors_left_and_right(flip):
    views = Views(**STILL | {"flip": flip})(ramps(10), generator())

    assert bool(((views[:, 0, 5, 40] < views[:, 0, 5, 8]) == bool(flip)).all())
    assert bool((views[:, 1, 40, 5] > views[:, 1, 8, 5]).all())


def test_degrees_turn_images():
    level, turned = (
        Views(degrees=degrees, crop=0.2, **STILL)(ramps(10), generator()) for degrees in (0.0, 90.0)
    )

    slant = [(views[:, 0, 40, 24] - views[:, 0, 8, 24]).abs() for views in (level, turned)]
    assert float(slant[0].max()) < 1e-5
    assert float(slant[1].max()) > 0.1


def test_colours_change_with_their_strength():
    images = plain(20, 0.6, 0.4, 0.3)

    weak, strong = (
        (Views(**STILL | {"colour": colour})(images, generator()) - images).abs().mean()
        for colour in (0.1, 1.0)
    )

    still = Views(**STILL)(images, generator())
    assert torch.allclose(still, images, atol=1e-5)
    assert 0.001 < float(weak) < float(strong) / 3


def test_grey_views_have_no_colour():
    views = Views(**STILL | {"grey": 1.0, "colour": 0.5})(noise(6), generator())

    assert torch.allclose(views[:, 0], views[:, 1], atol=1e-5)
    assert torch.allclose(views[:, 0], views[:, 2], atol=1e-5)


def test_blur_smooths_views():
    images = torch.rand(10, 3, 160, 160, generator=generator())  # blur is a share of the side

    sharp, blurred = (Views(**STILL | {"blur": blur})(images, generator()) for blur in (0.0, 1.0))

    ratio = blurred.std(dim=(1, 2, 3)) / sharp.std(dim=(1, 2, 3))
    assert bool((ratio < 1 + 1e-5).all())
    assert float(ratio.min()) < 0.9


def test_solarized_views_are_inverted_where_they_are_bright():
    solarized = Views(**STILL, solarize=1.0)

    assert torch.allclose(solarized(plain(3, 0.8, 0.8, 0.8), generator()), plain(3, 0.2, 0.2, 0.2))
    assert torch.allclose(solarized(plain(3, 0.3, 0.3, 0.3), generator()), plain(3, 0.3, 0.3, 0.3))


@pytest.mark.parametrize("options", [{"flip": 2.0}, {"grey": -1.0}, {"crop": 1.5}])
def test_options_that_are_impossible_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        Views(**options)


@pytest.mark.parametrize(("grid", "gap"), [(2, 4), (3, 2), (3, 0)])
def test_every_tile_lies_in_its_cell_of_the_image(grid, gap):
    images, cell = noise(5), SIDE // grid

    parts = tiles(images, grid, gap=gap, generator=generator())

    side = cell - gap
    assert parts.shape == (5, grid * grid, 3, side, side)
    for image, its in zip(images, parts, strict=True):
        for n, part in enumerate(its):
            row, column = n // grid * cell, n % grid * cell
            assert any(
                torch.equal(part, image[:, y : y + side, x : x + side])
                for y in range(row, row + gap + 1)
                for x in range(column, column + gap + 1)
            )


def test_tiles_are_moved_as_far_as_the_gap_lets_them_and_as_chance_has_it():
    images = ramps(200)

    parts = tiles(images, 2, gap=3, generator=generator())

    offsets = (parts[:, 0, :2, 0, 0] * (SIDE - 1)).round()  # pixels across and down
    assert {tuple(at) for at in offsets.int().tolist()} == {
        (x, y) for x in range(4) for y in range(4)
    }
    assert torch.equal(parts, tiles(images, 2, gap=3, generator=generator()))
    assert not torch.equal(parts, tiles(images, 2, gap=3, generator=generator(1)))


def test_all_parts_of_an_image_lose_their_colour_or_none_does():
    parts = torch.rand(40, 4, 3, 6, 6, generator=generator())

    changed = uncoloured(parts, 0.5, generator())

    grey = (changed == changed[:, :, :1]).flatten(2).all(dim=2)  # (B, L)
    assert bool((grey.all(dim=1) | ~grey.any(dim=1)).all())
    assert 0.2 < float(grey.float().mean()) < 0.8
    assert torch.equal(changed[~grey], parts[~grey])
    assert torch.allclose(changed[grey][:, 0], parts[grey].mean(dim=1))


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_colour_is_lost_always_or_never(probability):
    parts = torch.rand(10, 4, 3, 6, 6, generator=generator())

    changed = uncoloured(parts, probability, generator())

    assert torch.equal(changed, parts) == (probability == 0)
    assert torch.equal(changed[:, :, 0], changed[:, :, 2]) == (probability == 1)


def test_normalised_parts_have_the_same_light():
    parts = torch.rand(2, 4, 3, 6, 6, generator=generator())
    light = torch.tensor([0.1, 0.4, 0.7, 1.0]).view(1, 4, 1, 1, 1)

    same = normalised(light * parts + (1 - light) / 3)

    assert torch.allclose(same.mean(dim=(2, 3, 4)), torch.full((2, 4), 0.5), atol=1e-4)
    # The darkest part has a deviation of 0.03, beside which the 0.001 that is added shows.
    assert torch.allclose(same.std(dim=(2, 3, 4)), torch.full((2, 4), 0.2), atol=0.01)


def test_normalised_parts_of_one_colour_are_even():
    parts = torch.full((1, 2, 3, 6, 6), 0.9)

    assert torch.allclose(normalised(parts), torch.full_like(parts, 0.5), atol=1e-3)


def test_options_of_views_are_refused_when_they_are_impossible():
    for options in ({"crop": 0.0}, {"colour": 2.0}, {"blur": -1.0}, {"solarize": 3.0}):
        with pytest.raises(ValueError, match="must be"):
            Views(**options)
