"""Jigsaw puzzles."""

import math

import pytest
import torch
from torch import Generator, Tensor, nn

from models.encoders import Encoder
from models.encoders.architectures.conv4 import Conv4
from models.images import Preprocessing
from models.pretraining.methods.jigsaw import Jigsaw, _Objective, most_different
from models.training.loop import Batch

PLAIN = Preprocessing(resize=48, crop=48, mean=(0.0,) * 3, std=(1.0,) * 3)


def looking_at_light() -> Encoder:
    """Features are the mean of each channel."""
    return Encoder([nn.AdaptiveAvgPool2d(1)], embedding_dim=3, preprocessing=PLAIN)


def knowing(light: Tensor) -> _Objective:
    """A classifier that tells an order by how like it the light of the tiles is, as they lie."""
    objective = Jigsaw(grid=2).build(looking_at_light(), 40)
    assert isinstance(objective, _Objective)
    places = 3 * torch.arange(len(light))  # the first channel of each
    with torch.no_grad():
        objective.classifier.bias.zero_()
        objective.classifier.weight.zero_()
        objective.classifier.weight[:, places] = 1e4 * light[objective.orders]
    return objective


def hamming(orders: Tensor) -> Tensor:
    """Distances of all pairs of orders."""
    between = (orders.unsqueeze(0) != orders.unsqueeze(1)).sum(dim=2)
    return between[torch.triu(torch.ones_like(between), diagonal=1).bool()]


@pytest.mark.parametrize(
    ("parts", "count", "fewest"),
    # Of four parts, four orders can differ everywhere; 24 are all there are.
    [(4, 4, 4), (4, 24, 2), (9, 24, 7), (9, 100, 6)],
)
def test_orders_are_permutations_far_apart(parts, count, fewest):
    orders = most_different(parts, count)

    assert orders.shape == (count, parts)
    assert bool((orders.sort(dim=1).values == torch.arange(parts)).all())
    assert int(hamming(orders).min()) >= fewest


def test_each_order_is_the_farthest_from_those_before_it():
    everything, orders = most_different(4, 24), most_different(4, 6)

    for n in range(1, 6):
        nearest = (everything.unsqueeze(1) != orders[:n]).sum(dim=2).min(dim=1).values
        distance = (orders[n] != orders[:n]).sum(dim=1).min()
        assert distance == nearest.max()


def test_orders_are_the_same_in_every_process_and_no_more_than_there_are():
    torch.manual_seed(1)
    first = most_different(9, 10)
    torch.manual_seed(2)

    assert torch.equal(most_different(9, 10), first)
    assert most_different(4, 100).shape == (24, 4)


def test_the_order_that_is_to_be_told_is_that_in_which_the_tiles_lie():
    torch.manual_seed(0)
    light = torch.tensor([0.1, 0.9, 0.3, 0.6])
    parts = light.view(1, 4, 1, 1, 1).expand(40, 4, 3, 20, 20)
    batch = Batch([parts], torch.arange(40), torch.zeros(40, 0))

    right, wrong = (knowing(levels).pretext_loss(batch) for levels in (light, light.roll(1)))

    assert float(right.loss) == pytest.approx(0, abs=1e-3)
    assert float(wrong.loss) > 1


def test_tiles_come_in_reading_order_without_their_light():
    images = torch.rand(6, 3, 48, 48, generator=Generator().manual_seed(0))
    objective = Jigsaw(grid=2, grey=0.0).build(looking_at_light(), 40)
    images[:, :, :24, :24] *= torch.linspace(1, 0, 24)  # darker to the right, in one cell

    ((parts,), _) = objective.make_views(images, torch.zeros(6, 0), Generator().manual_seed(0))

    assert parts.shape == (6, 4, 3, 20, 20)
    assert torch.allclose(parts.mean(dim=(2, 3, 4)), torch.full((6, 4), 0.5), atol=0.02)
    darker = parts[..., :5].mean(dim=(2, 3, 4)) - parts[..., -5:].mean(dim=(2, 3, 4))
    assert (darker > 0.2).tolist() == [[True, False, False, False]] * 6


@pytest.mark.parametrize(("side", "parts"), [(48, 4), (96, 9)])
def test_a_classifier_sees_all_tiles_and_knows_as_many_orders_as_there_are(side, parts):
    objective = Jigsaw(permutations=30).build(Conv4(width=8, image_side=side).build(), 40)

    orders = min(30, math.factorial(parts))
    assert objective.classifier.weight.shape == (orders, parts * 8)
    assert objective.chance == pytest.approx(math.log(orders))
