"""Encoders that look at tiles."""

import copy

import pytest
import torch

from models.encoders import Encoder
from models.encoders.architectures.conv4 import Conv4
from models.encoders.architectures.vit import ViT
from models.pretraining import Unsuited
from models.pretraining.methods import methods
from models.pretraining.tiling import check_tiles, embed_parts, gap_of


def conv(side: int) -> Encoder:
    return Conv4(width=8, image_side=side).build()


@pytest.mark.parametrize(("side", "grid"), [(48, 2), (95, 2), (96, 3), (128, 3)])
def test_large_images_are_cut_into_three_by_three_and_others_into_two_by_two(side, grid):
    assert check_tiles(conv(side), "jigsaw", 0) == grid


def test_the_grid_that_is_asked_for_is_taken():
    assert check_tiles(conv(128), "jigsaw", 2) == 2
    assert check_tiles(conv(64), "jigsaw", 3) == 3


def test_a_transformer_is_refused_by_the_name_of_the_method():
    encoder = ViT(width=24, image_side=48, depth=2, heads=2).build()

    with pytest.raises(Unsuited, match="pirl looks at parts") as caught:
        check_tiles(encoder, "pirl", 2)

    suited = set(methods) - {"jigsaw", "context", "pirl"}
    assert all(name in str(caught.value) for name in suited)


@pytest.mark.parametrize(
    ("side", "grid", "tile"),
    [
        (16, 2, 7),  # below 8 pixels
        (36, 2, 15),  # of which four poolings leave nothing
        (48, 3, 14),
    ],
)
def test_tiles_that_are_too_small_are_refused_with_their_side(side, grid, tile):
    with pytest.raises(Unsuited, match=f"of {side} pixels into {grid} by {grid} tiles of {tile},"):
        check_tiles(conv(side), "jigsaw", grid)


def test_a_check_leaves_the_encoder_as_it_is():
    encoder = conv(48).train()
    before = copy.deepcopy(encoder.state_dict())

    check_tiles(encoder, "jigsaw", 2)

    assert encoder.training
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize(("side", "grid", "gap"), [(48, 2, 4), (48, 3, 2), (224, 3, 11)])
def test_the_gap_is_a_share_of_a_cell(side, grid, gap):
    assert gap_of(torch.empty(1, 3, side, side), grid) == gap


def test_parts_have_the_features_that_they_have_as_images():
    encoder, parts = conv(48).eval(), torch.rand(2, 4, 3, 20, 20)

    features = embed_parts(encoder, parts)

    assert features.shape == (2, 4, 8)
    for image in range(2):
        assert torch.allclose(features[image], encoder.features(parts[image]), atol=1e-5)
