"""Context prediction."""

import pytest
import torch
from torch import Generator, Tensor, nn

from models.encoders import Encoder
from models.images import Preprocessing
from models.pretraining import Pretext
from models.pretraining.methods.context import CENTRE, Context
from models.training.loop import Batch

OTHERS = [0, 1, 2, 3, 5, 6, 7, 8]  # tiles of three by three without the middle, by their side
PLAIN = Preprocessing(resize=48, crop=48, mean=(0.0,) * 3, std=(1.0,) * 3)


def looking_at_light() -> Encoder:
    """Features are the mean of each channel."""
    return Encoder([nn.AdaptiveAvgPool2d(1)], embedding_dim=3, preprocessing=PLAIN)


def knowing(light: Tensor, objective: Pretext) -> Pretext:
    """A classifier that tells a tile of `light[n]` by how near its own light is to that."""
    tiles = light[OTHERS]
    layer = nn.Linear(6, 8)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, 3] = 2e4 * tiles  # the first channel of the other tile
        layer.bias.copy_(-1e4 * tiles.square())
    objective.classifier = layer
    return objective


def test_the_side_that_is_to_be_told_is_that_of_the_tile_beside_the_middle():
    torch.manual_seed(0)
    light = torch.linspace(0, 1, 9)
    parts = light.view(1, 9, 1, 1, 1).expand(40, 9, 3, 14, 14)
    batch = Batch([parts], torch.arange(40), torch.zeros(40, 0))

    right = knowing(light, Context().build(looking_at_light(), 40)).pretext_loss(batch)
    wrong = knowing(light.flip(0), Context().build(looking_at_light(), 40)).pretext_loss(batch)

    assert float(right.loss) == pytest.approx(0, abs=1e-3)
    assert float(wrong.loss) > 1
    middle = torch.full((40, 3), float(light[CENTRE]))
    assert torch.allclose(right.features[0], middle, atol=1e-5)


def test_tiles_keep_a_gap_and_lose_their_light():
    images = torch.rand(6, 3, 48, 48, generator=Generator().manual_seed(0))
    objective = Context(grey=0.0).build(looking_at_light(), 40)

    ((parts,), _) = objective.make_views(images, torch.zeros(6, 0), Generator().manual_seed(0))

    assert parts.shape == (6, 9, 3, 14, 14)  # of cells of 16
    assert torch.allclose(parts.mean(dim=(2, 3, 4)), torch.full((6, 9), 0.5), atol=1e-3)
    assert torch.allclose(parts.std(dim=(2, 3, 4)), torch.full((6, 9), 0.2), atol=1e-2)


def test_half_of_the_images_lose_their_colour_by_default():
    images = torch.rand(40, 3, 48, 48, generator=Generator().manual_seed(0))
    objective = Context().build(looking_at_light(), 40)

    ((parts,), _) = objective.make_views(images, torch.zeros(40, 0), Generator().manual_seed(0))

    grey = torch.isclose(parts[:, :, 0], parts[:, :, 2], atol=1e-5).flatten(1).all(dim=1)
    assert 0.25 < float(grey.float().mean()) < 0.75
