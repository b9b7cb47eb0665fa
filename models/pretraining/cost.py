"""What a pretraining would cost here, by a few steps of it."""

import time
from typing import Any, NamedTuple

import torch
from torch import Generator

from models.encoders import Encoder
from models.pretraining import PretrainingMethod, resolve_recipe, start
from models.training.recipe import Recipe

STEPS = 2  # after one that is not counted


IMAGES = 8  # of a step


class Cost(NamedTuple):
    """The cost of a pretraining."""

    seconds: float  # of all epochs, on this machine
    memory: int  # bytes for weights, their gradients and moments, and what a batch leaves behind


def measure_cost(method: PretrainingMethod, encoder: Encoder, recipe: Recipe, images: int) -> Cost:
    """Train for some steps on noise, and multiply.

    Args:
        images: that there will be.

    Raises:
        Unsuited: the method cannot work with this encoder.
    """
    settled = resolve_recipe(recipe, encoder, images)
    short = Recipe(epochs=1 + STEPS, batch_size=IMAGES, rate=1e-6)
    side = encoder.preprocessing.crop
    generator = Generator().manual_seed(0)
    noise = torch.randint(0, 256, (IMAGES, 3, side, side), dtype=torch.uint8, generator=generator)
    training = start(method, encoder, noise, short, fresh=False)
    saved_bytes = 0

    def count(tensor: Any) -> Any:
        nonlocal saved_bytes
        saved_bytes += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        next(training)
    started = time.monotonic()
    for _ in training:
        pass
    per_image = (time.monotonic() - started) / STEPS / IMAGES
    state = training.objective.state_dict().values()
    weights = sum(tensor.numel() * tensor.element_size() for tensor in state)
    return Cost(
        per_image * settled.epochs * images,
        4 * weights + saved_bytes * settled.batch_size // IMAGES,
    )
