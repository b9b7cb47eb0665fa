"""What a pretraining would cost."""

import copy

import pytest
import torch

from models.encoders import Encoder
from models.encoders.architectures.conv4 import Conv4
from models.encoders.architectures.vit import ViT
from models.pretraining import Unsuited
from models.pretraining.cost import IMAGES, measure_cost
from models.pretraining.methods.jigsaw import Jigsaw
from models.pretraining.methods.rotation import Rotation
from models.training.recipe import Recipe

RECIPE = Recipe(epochs=10, batch_size=16)


def conv(width: int = 8) -> Encoder:
    return Conv4(width=width, image_side=32).build()


def size(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_memory_holds_the_weights_four_times_and_what_a_batch_leaves_behind():
    encoder = conv()

    small, large = (
        measure_cost(Rotation(), encoder, Recipe(epochs=10, batch_size=batch), 640).memory
        for batch in (IMAGES, 4 * IMAGES)
    )

    weights = size(list(Rotation().build(encoder, 640).state_dict().values()))
    assert large - 4 * weights == 4 * (small - 4 * weights)
    # At least the images, each in four rotations, are kept for the backward pass.
    assert small - 4 * weights > IMAGES * 4 * 3 * 32 * 32 * 4


def test_a_wider_encoder_needs_more_memory():
    narrow, wide = (measure_cost(Rotation(), conv(width), RECIPE, 640) for width in (8, 32))

    assert 0 < narrow.seconds < float("inf")
    assert 2 * narrow.memory < wide.memory


def test_the_encoder_stays_as_it_is():
    encoder = conv()
    before = copy.deepcopy(encoder.state_dict())

    measure_cost(Rotation(), encoder, RECIPE, 640)

    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_a_method_that_cannot_work_with_the_encoder_costs_nothing():
    transformer = ViT(width=24, image_side=48, depth=2, heads=2).build()

    with pytest.raises(Unsuited):
        measure_cost(Jigsaw(), transformer, RECIPE, 640)
