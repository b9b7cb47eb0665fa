"""How to train: the options of every training, and its learning rate over time."""

import math
from dataclasses import dataclass
from typing import Literal

WARM_UP = 0.25  # share of the steps in which the rates rise, of one cycle


COSINE_WARM_UP = 0.05


FIRST_RATE = 1 / 25  # of the highest


LAST_RATE = 1e-4


RANGE = 1e-5  # where the rates of a range test start


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train."""

    epochs: int = 0  # passes over the images; 0: as many as suit their number
    batch_size: int = 32
    rate: float = 0.0  # of the fastest parameters, at its highest; 0: as suits the encoder
    schedule: Literal["one_cycle", "cosine", "constant", "range"] = "one_cycle"
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 0.01
    clip_norm: float = 1.0  # of all gradients together; 0: never
    label_smoothing: float = 0.1  # share of a target that all classes have in common
    balanced: bool = True  # draw every class equally often
    patience: int = 0  # epochs without a better held-out accuracy before stopping; 0: never stop
    ema_decay: float = 0.0  # of the averaged weights; 0: no average
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        for name in ("epochs", "rate", "weight_decay", "clip_norm", "patience"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("ema_decay", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to below 1, got {getattr(self, name)}")


def rate_at(schedule: str, progress: float) -> float:
    """The learning rate at a share 0..1 of all steps, as a factor of the highest.

    `one_cycle` rises and falls as two half cosines (Smith & Topin, 2019,
    https://arxiv.org/abs/1708.07120); `cosine` rises in a line, then falls as half a cosine
    (Loshchilov & Hutter, 2017, https://arxiv.org/abs/1608.03983); `range` rises exponentially
    (Smith, 2017, https://arxiv.org/abs/1506.01186).
    """
    if schedule == "range":
        return float(RANGE ** (1 - progress))
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        if progress < COSINE_WARM_UP:
            return FIRST_RATE + (1 - FIRST_RATE) * progress / COSINE_WARM_UP
        return _half_cosine(1.0, 0.0, (progress - COSINE_WARM_UP) / (1 - COSINE_WARM_UP))
    if progress < WARM_UP:
        return _half_cosine(FIRST_RATE, 1.0, progress / WARM_UP)
    return _half_cosine(1.0, LAST_RATE, (progress - WARM_UP) / (1 - WARM_UP))


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
