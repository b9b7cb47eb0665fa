"""What a pretraining would cost here, by a few steps of it."""

import torch
from torch import Generator

from models.encoders import Encoder
from models.pretraining import PretrainingMethod, resolve_recipe, start
from models.training.cost import Cost, measure_steps
from models.training.recipe import Recipe

STEPS = 2  # after one that is not counted


IMAGES = 8  # of a step


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
    step = measure_steps(training)
    return Cost(
        step.seconds / IMAGES * settled.epochs * images,
        4 * step.weights + step.activations * settled.batch_size // IMAGES,
    )
