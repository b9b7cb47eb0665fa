"""The learning-rate range test: how fast may it learn?"""

import math
from collections.abc import Callable
from dataclasses import replace

from models.training.loop import Diverged, Training
from models.training.recipe import Recipe

STEPS = 60


HIGHEST = 0.1


SMOOTHING = 0.8  # share of the smoothed loss that stays at each step


WORSE = 2.0  # times the first loss: it only gets worse from here


SAFETY = 0.1  # the rate with the least loss is about to diverge


def find_rate(begin: Callable[[Recipe], Training], images: int, recipe: Recipe) -> float:
    """A rate for the fastest parameters, by a short run in which it rises (Smith, 2017).

    https://arxiv.org/abs/1506.01186

    The rate rises exponentially to `HIGHEST`. What is returned is a tenth of the rate at which the
    smoothed loss was least.

    Args:
        begin: starts a training that is thrown away.
        images: how many it sees in an epoch.
    """
    epochs = math.ceil(STEPS / math.ceil(images / recipe.batch_size))
    rising = replace(
        recipe, rate=HIGHEST, schedule="range", epochs=epochs, patience=0, ema_decay=0.0
    )
    training = begin(rising)
    smoothed, first, least, best = 0.0, math.nan, math.inf, HIGHEST
    step = 0
    try:
        for rate, loss in training.steps():
            step += 1
            smoothed = SMOOTHING * smoothed + (1 - SMOOTHING) * loss
            unbiased = smoothed / (1 - SMOOTHING**step)
            if step == 1:
                first = loss
            if unbiased < least:
                least, best = unbiased, rate
            if unbiased > WORSE * first or step >= STEPS:
                break
    except Diverged:
        pass
    return SAFETY * best
