"""What a training would cost here, by a few steps of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from models.training.loop import Training


class Cost(NamedTuple):
    """The cost of a training."""

    seconds: float  # of all steps, on this machine
    memory: int  # bytes for weights, their gradients and moments, and what a step leaves behind


class StepCost(NamedTuple):
    """The cost of a step."""

    seconds: float
    weights: int  # bytes, of all that learns or is remembered
    activations: int  # bytes that a step leaves for its backward pass


def measure_steps(training: Training) -> StepCost:
    """Train to the end; the first epoch is counted in bytes, the others in seconds.

    Args:
        training: of some epochs of one step each, which is thrown away.
    """
    with count_saved() as saved:
        next(training)
    started, steps = time.monotonic(), 0
    for _ in training:
        steps += 1
    seconds = (time.monotonic() - started) / steps
    state = training.objective.state_dict().values()
    weights = sum(tensor.numel() * tensor.element_size() for tensor in state)
    return StepCost(seconds, weights, saved.bytes)


@dataclass
class SavedTensors:
    """What was left behind for backward passes."""

    bytes: int = 0


@contextmanager
def count_saved() -> Iterator[SavedTensors]:
    """Counts what is left behind for backward passes; what several need counts as often."""
    saved = SavedTensors()

    def count(tensor: Any) -> Any:
        saved.bytes += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        yield saved
