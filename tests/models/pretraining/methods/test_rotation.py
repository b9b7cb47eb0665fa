"""Rotation."""

import pytest
import torch
from torch import Generator, Tensor, nn

from models.encoders import Encoder
from models.images import Preprocessing
from models.pretraining.methods.rotation import Rotation, _Objective
from models.training.loop import Batch

CORNERS = [0, 2, 3, 1]  # where the upper left one goes in quarter turns to the left, row by row


def looking_at_corners() -> Encoder:
    """Features are the light of each quarter of an image, by channel and then row by row."""
    return Encoder(
        [nn.AdaptiveAvgPool2d(2)],
        embedding_dim=12,
        preprocessing=Preprocessing(resize=48, crop=48, mean=(0.0,) * 3, std=(1.0,) * 3),
    )


def objective(**options) -> _Objective:
    built = Rotation(**options).build(looking_at_corners(), 40)
    assert isinstance(built, _Objective)
    return built


def lit_in_the_upper_left(count: int) -> Tensor:
    images = torch.zeros(count, 3, 48, 48)
    images[:, :, :24, :24] = 1
    return images


def knowing(corners: list[int], method: _Objective) -> _Objective:
    """A classifier that tells turn `n` by light in the corner `corners[n]`."""
    with torch.no_grad():
        method.classifier.bias.zero_()
        method.classifier.weight.zero_()
        method.classifier.weight[torch.arange(4), corners] = 100.0
    return method


def test_all_four_turns_of_every_image_are_seen():
    images = torch.rand(5, 3, 48, 48, generator=Generator().manual_seed(0))

    ((turned,), _) = objective(flip=False).make_views(
        images, torch.zeros(5, 0), Generator().manual_seed(0)
    )

    assert torch.equal(turned[:5], images)
    assert torch.equal(turned[5:10], images.transpose(2, 3).flip(2))  # to the left
    assert torch.equal(turned[10:15], images.flip(2, 3))
    assert torch.equal(turned[15:], images.transpose(2, 3).flip(3))  # to the right


def test_the_turn_that_is_to_be_told_is_that_of_the_image():
    images, right, wrong = lit_in_the_upper_left(5), objective(flip=False), objective(flip=False)
    views, none = right.make_views(images, torch.zeros(5, 0), Generator().manual_seed(0))
    batch = Batch(views, torch.arange(5), none)

    assert float(knowing(CORNERS, right).loss(batch).detach()) == pytest.approx(0, abs=1e-6)
    assert float(knowing(CORNERS[::-1], wrong).loss(batch).detach()) == pytest.approx(100)


def test_half_of_the_images_are_mirrored_and_in_all_turns_alike():
    images = lit_in_the_upper_left(40)

    ((turned,), _) = objective().make_views(images, torch.zeros(40, 0), Generator().manual_seed(0))

    upright, _, around, _ = turned.chunk(4)
    assert torch.equal(around, upright.flip(2, 3))
    mirrored = upright[:, 0, 0, -1] == 1
    assert 0.25 < float(mirrored.float().mean()) < 0.75
    assert torch.equal(upright[mirrored], images[mirrored].flip(3))
    assert torch.equal(upright[~mirrored], images[~mirrored])
