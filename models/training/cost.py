"""What a training would cost here, by a few steps of it."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from models.training.loop import Training

IN_WORK = 1.25  # times what was left behind; 1.1 to 1.5 for convolutions on a processor


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
    """What was left behind for backward passes; what several need counts once."""

    most: int = 0  # bytes at a time
    held: int = 0  # bytes now
    needed: Counter[int] = field(default_factory=Counter)  # how often, by storage

    @property
    def bytes(self) -> int:
        """That a process takes for it, with what a backward pass has in work."""
        return int(IN_WORK * self.most)


class _Saved:
    """A tensor for a backward pass, for as long as that may come."""

    def __init__(self, tensor: Any, saved: SavedTensors) -> None:
        storage = tensor.untyped_storage()
        self.tensor = tensor.detach()  # an output would hold the graph that holds it
        self._saved, self._storage, self._bytes = saved, storage._cdata, storage.nbytes()
        saved.needed[self._storage] += 1
        if saved.needed[self._storage] == 1:
            saved.held += self._bytes
            saved.most = max(saved.most, saved.held)

    def __del__(self) -> None:
        self._saved.needed[self._storage] -= 1
        if not self._saved.needed[self._storage]:
            del self._saved.needed[self._storage]
            self._saved.held -= self._bytes


@contextmanager
def count_saved() -> Iterator[SavedTensors]:
    """Counts what is left behind for backward passes."""
    saved = SavedTensors()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: _Saved(tensor, saved), lambda kept: kept.tensor
    ):
        yield saved
