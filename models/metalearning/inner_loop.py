"""Inner loops: the steps that solve one episode, through which what comes before them learns."""

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from models.encoders import NORM_MOMENTUM, Encoder
from models.encoders.support_norm import normalise_by_support
from models.metalearning import Episodic, in_full_precision
from models.training.loop import Diverged

Weights = Mapping[str, Tensor]  # of stages, by the names that they have in `Encoder.stages`


class Solution(NamedTuple):
    """What an inner loop makes of the support of an episode."""

    weights: Weights  # those that it changed
    rows: Float[Tensor, "C D"]  # of the last layer
    offsets: Float[Tensor, " C"]

    @property
    def tensors(self) -> list[Tensor]:
        """All that steps change, in one order."""
        return [*self.weights.values(), self.rows, self.offsets]

    def replaced(self, tensors: Sequence[Tensor]) -> "Solution":
        """The solution with these tensors instead, in the order of `tensors`."""
        *weights, rows, offsets = tensors
        return Solution(dict(zip(self.weights, weights, strict=True)), rows, offsets)


class InnerLoopDiverged(Diverged):
    """What solves an episode is no longer a number.

    Attributes:
        step: of the inner loop, from 1.
    """

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(0, loss)
        self.args = (
            f"the loss of an episode was {loss} in step {step} of the inner loop: "
            "lower the inner rate",
        )
        self.step = step


class InnerLoopObjective(Episodic):
    """Answers queries by a network that an inner loop has fitted to the support of the episode."""

    works_in_parts = False
    answers_cheaply = False
    first = 0  # stage that steps change, and all behind it

    def prepare(self, images: Float[Tensor, "B 3 S S"]) -> Tensor:
        """Images, as the first stage gets them."""
        return self.encoder.normalised(images)

    def logits(self, support: Tensor, query: Tensor) -> Float[Tensor, "Q C"]:
        """W f(x) + b of the solution, in float32.

        Raises:
            InnerLoopDiverged: the inner loop came to no number.
        """
        solution, shown = self.solve(support), support.flatten(0, 1)
        with in_full_precision(query.device):
            both = torch.cat([shown, query]) if self.fresh else query
            answers = self.answers(solution, both, len(shown))[-len(query) :]
        require_number(answers.sum(), self.count_steps(support.shape[1]))
        return answers

    def answers(
        self, solution: Solution, maps: Tensor, support: int, *, remember: bool = False
    ) -> Float[Tensor, "B C"]:
        """What the network of a solution says of images.

        Args:
            support: so many of the first images are the support.
            remember: running statistics follow theirs; see `run_stages`.
        """
        features = run_stages(
            stages_of(self.encoder),
            solution.weights,
            maps,
            support=support if self.fresh else None,
            remember=remember,
        )
        return features.flatten(1) @ solution.rows.T + solution.offsets

    def count_steps(self, shots: int) -> int:
        """How many steps suit so many images of a label."""
        raise NotImplementedError

    def solve(self, support: Tensor) -> Solution:
        """The inner loop.

        Args:
            support: what `prepare` made of the support images, (C, K, ...).

        Raises:
            InnerLoopDiverged: its loss is not a number.
        """
        raise NotImplementedError


@contextmanager
def in_float32(device: torch.device) -> Iterator[bool]:
    """Gradients of inner loops, also where those of the caller are off; never in half precision.

    Yields:
        Whether the caller wants gradients, so that the inner loop has to be remembered.
    """
    wanted = torch.is_grad_enabled()
    with torch.enable_grad(), in_full_precision(device):
        yield wanted


def stages_of(encoder: Encoder, first: int = 0, end: int | None = None) -> nn.Sequential:
    """Some stages of an encoder, under the numbers that they have in it."""
    stages = list(encoder.stages.named_children())[first:end]
    return nn.Sequential(OrderedDict(stages))


def parameters_of(stages: nn.Module) -> dict[str, Tensor]:
    """The parameters of stages, which is where an inner loop starts; also those that are frozen."""
    return {
        name: value if value.requires_grad else value.detach().requires_grad_()
        for name, value in stages.named_parameters()
    }


def run_stages(
    stages: nn.Module,
    weights: Weights,
    maps: Tensor,
    *,
    support: int | None,
    remember: bool = False,
) -> Tensor:
    """What stages make of images, or of what earlier stages made of them, with other weights.

    Args:
        weights: those of the stages that differ.
        maps: (B, ...).
        support: so many of the first images are the support, whose statistics batch norms take for
            all, differentiably: a query is normalised by the support and never by queries. None:
            they take their running statistics.
        remember: the running statistics of norms that train follow those of the support.
    """
    if support is None:
        by_running: Tensor = functional_call(stages, dict(weights), (maps,))
        return by_running
    norms = [module for module in stages.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        setattr(norm, "forward", partial(_by_support, norm, support, remember))  # noqa: B010
    try:
        result: Tensor = functional_call(stages, dict(weights), (maps,))
    finally:
        for norm in norms:
            delattr(norm, "forward")
    return result


def _by_support(norm: _BatchNorm, support: int, remember: bool, maps: Tensor) -> Tensor:
    """Batch normalisation by the statistics of the first images."""
    normalised, mean, variance = normalise_by_support(norm, maps, support)
    if remember and norm.training and norm.running_mean is not None:
        values = maps[:support].numel() // maps.shape[1]
        norm.running_mean.lerp_(mean, NORM_MOMENTUM)
        norm.running_var.lerp_(  # type: ignore[union-attr]
            variance * values / max(1, values - 1), NORM_MOMENTUM
        )
    return normalised


def slopes(
    features: Float[Tensor, "B D"],
    layer: Sequence[Tensor],
    labels: Int[Tensor, " B"],
    weights: Weights,
    *,
    step: int,
    learns: bool,
    second: bool,
) -> list[Tensor]:
    """The gradients of the loss of the support: by the weights behind its features, by the layer.

    The layer may itself have been made of the features, and counts as if it had not.

    Args:
        layer: rows (C, D) and offsets (C,).
        step: of the inner loop, from 1.
        learns: the features are needed once more, for what they made.
        second: gradients can be differentiated.

    Raises:
        InnerLoopDiverged: the loss is not a number.
    """
    own, rows, offsets = (value.view_as(value) for value in (features, *layer))
    loss = support_loss(own @ rows.T + offsets, labels, step)
    if not weights:
        return list(torch.autograd.grad(loss, (rows, offsets), create_graph=second))
    by_features, *by_layer = torch.autograd.grad(loss, (own, rows, offsets), create_graph=second)
    by_weights = torch.autograd.grad(
        features,
        tuple(weights.values()),
        by_features,
        create_graph=second,
        retain_graph=learns,
        materialize_grads=True,
    )
    return [*by_weights, *by_layer]


def support_loss(
    logits: Float[Tensor, "B C"], labels: Int[Tensor, " B"], step: int
) -> Float[Tensor, ""]:
    """Cross entropy of the support.

    Args:
        step: of the inner loop, from 1.

    Raises:
        InnerLoopDiverged: it is not a number.
    """
    loss = F.cross_entropy(logits, labels)
    require_number(loss, step)
    return loss


def require_number(loss: Float[Tensor, ""], step: int) -> None:
    """Refuse a loss that is none; on the meta device there are no numbers to look at.

    Raises:
        InnerLoopDiverged: names the step, from 1.
    """
    if loss.is_meta:
        return
    value = float(loss.detach())
    if not math.isfinite(value):
        raise InnerLoopDiverged(step, value)


def support_labels(ways: int, shots: int, device: torch.device) -> Int[Tensor, " B"]:
    """The class of each support image, class by class."""
    return torch.arange(ways, device=device).repeat_interleave(shots)
