"""Steps that were learned, over all labeled images: how a network adapts itself to new labels."""

import copy
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from models.encoders import Encoder, trainable_copy
from models.metalearning.inner_loop import (
    InnerLoopDiverged,
    Solution,
    in_float32,
    require_number,
    run_stages,
    stages_of,
)
from models.metalearning.learners import learners
from models.registry import plugin_name
from models.training.loop import Epoch, Images, as_values

ENCODER = "encoder."  # how the names of its tensors begin in the state of an objective


@runtime_checkable
class StepLearner(Protocol):
    """An objective that has learned how to go on from the weights of its encoder."""

    encoder: Encoder
    fresh: bool  # batch norms take the statistics of the support
    first: int  # stage that steps change, and all behind it

    def count_steps(self, shots: int) -> int:
        """How many steps suit so many images of a label."""
        ...

    def initial(self, means: Float[Tensor, "C D"]) -> Solution:
        """Where steps start.

        Args:
            means: of the features of each label.

        Raises:
            ValueError: it is for another number of labels.
        """
        ...

    def step(
        self,
        solution: Solution,
        gradients: Sequence[Tensor],
        loss: Float[Tensor, ""],
        memory: Sequence[Tensor],
    ) -> tuple[Solution, Sequence[Tensor]]:
        """The next solution, and what the step after that has to know.

        Args:
            gradients: of `solution.tensors`, in their order.
            memory: what the step before returned; empty before the first.
        """
        ...


def learned_beside(method: Any, objective: nn.Module) -> dict[str, Any] | None:
    """What an objective has learned beside its encoder, for `restore`: plain values and tensors.

    None where it has learned no steps.

    Args:
        method: its options.
    """
    if not isinstance(objective, StepLearner):
        return None
    state = objective.state_dict()
    return {
        "name": plugin_name(method),
        "options": asdict(method),
        "fresh": objective.fresh,
        "state": {name: value for name, value in state.items() if not name.startswith(ENCODER)},
    }


def restore(document: dict[str, Any], encoder: Encoder) -> StepLearner:
    """The learner of a copy of an encoder, from what `learned_beside` returned.

    Raises:
        ValueError: it is of another kind of learner, or of another network.
    """
    name, fresh = document["name"], document["fresh"]
    if name not in learners:
        raise ValueError(f"this installation does not have the learner {name!r}")
    try:
        method: Any = learners[name](**document["options"])
    except TypeError as error:
        raise ValueError(f"the learner {name!r} had other options: {error}") from error
    objective: nn.Module = method.build(trainable_copy(encoder, fresh=fresh), fresh=fresh)
    state = objective.state_dict()
    beside = {name for name in state if not name.startswith(ENCODER)}
    if beside != document["state"].keys():
        raise ValueError(f"what {name!r} learned is not what it learns in this installation")
    try:
        objective.load_state_dict(state | document["state"])
    except RuntimeError as error:
        raise ValueError(f"what {name!r} learned is of another network: {error}") from error
    objective.to(encoder.mean.device).eval()
    assert isinstance(objective, StepLearner)
    return objective


class LearnedSteps(Iterator[Epoch]):
    """Takes the steps of a learner over labeled images, one after the other.

    A learner has seen few images of a label at a time, and here may be thousands: the gradient of
    a step is summed over parts of them, of which one is in memory. Each label counts alike, as in
    an episode. Where batch norms take the statistics of the support, they take those of a part
    (Hoffer et al., 2017, https://arxiv.org/abs/1705.08741); parts have the labels evenly.

    Everything that the next step depends on is in `state()`.

    Args:
        targets: the class of each image, from 0; each class occurs.
        batch_size: of a part, at most.

    Raises:
        ValueError: the learner is for another number of labels.
    """

    def __init__(
        self, learner: StepLearner, images: Images, targets: Int[Tensor, " M"], batch_size: int
    ) -> None:
        counts = torch.bincount(targets)
        self._learner = learner
        self._images = images
        self._device = learner.encoder.mean.device
        self._targets = targets.to(self._device)
        self._shares = (1 / (len(counts) * counts[targets])).to(self._device)
        self._parts = even_parts(targets, batch_size)
        self._steps = learner.count_steps(int(counts.min()))
        self._solution = _leaves(learner.initial(self._zeros(len(counts))))
        self._memory: Sequence[Tensor] = ()
        self.epoch = 0  # steps that were taken

    def __next__(self) -> Epoch:
        if self.epoch >= self._steps:
            raise StopIteration
        started = time.monotonic()
        with in_float32(self._device):
            if not self.epoch:
                self._solution = _leaves(self._learner.initial(self._means()))
            gradients, loss = self._slopes()
            require_number(loss, self.epoch + 1)
            with torch.no_grad():
                solution, memory = self._learner.step(self._solution, gradients, loss, self._memory)
        self._solution, self._memory = _leaves(solution), memory
        self.epoch += 1
        if not all(bool(value.isfinite().all()) for value in self._solution.tensors):
            raise InnerLoopDiverged(self.epoch, math.nan)
        images, seconds = len(self._targets), time.monotonic() - started
        return Epoch(self.epoch, self._steps, float(loss), {}, None, images, seconds)

    def adapted(self) -> Encoder:
        """A copy of the encoder after the steps that were taken."""
        encoder = copy.deepcopy(self._learner.encoder).eval()
        encoder.stages.load_state_dict(dict(self._solution.weights), strict=False)
        if self._learner.fresh and self.epoch:
            self._set_statistics(encoder)
        return encoder

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {
            "step": self.epoch,
            "solution": [value.detach() for value in self._solution.tensors],
            "memory": list(self._memory),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same learner, images and size of a part."""
        self.epoch = state["step"]
        tensors = [value.to(self._device) for value in state["solution"]]
        self._solution = _leaves(self._solution.replaced(tensors))
        self._memory = [value.to(self._device) for value in state["memory"]]

    def _zeros(self, classes: int) -> Float[Tensor, "C D"]:
        return torch.zeros(classes, self._learner.encoder.embedding_dim, device=self._device)

    @torch.no_grad()
    def _means(self) -> Float[Tensor, "C D"]:
        """Of the features of each label, before the first step."""
        targets = self._targets
        sums = self._zeros(int(targets.max()) + 1)
        for positions in self._parts:
            sums.index_add_(0, targets[positions], self._features(positions))
        return sums / torch.bincount(targets).unsqueeze(1)

    def _slopes(self) -> tuple[list[Tensor], Float[Tensor, ""]]:
        """The gradients of the loss of all images, and the loss."""
        solution = self._solution
        gradients = [torch.zeros_like(value) for value in solution.tensors]
        total = torch.zeros((), device=self._device)
        for positions in self._parts:
            logits = self._features(positions) @ solution.rows.T + solution.offsets
            losses = F.cross_entropy(logits, self._targets[positions], reduction="none")
            loss = losses @ self._shares[positions]
            slopes = torch.autograd.grad(loss, solution.tensors, materialize_grads=True)
            for gradient, slope in zip(gradients, slopes, strict=True):
                gradient += slope
            total += loss.detach()
        return gradients, total

    def _features(self, positions: Int[Tensor, " B"]) -> Float[Tensor, "B D"]:
        learner, maps = self._learner, self._normalised(positions)
        encoder, support = learner.encoder, len(positions) if learner.fresh else None
        with torch.no_grad():
            maps = run_stages(stages_of(encoder, 0, learner.first), {}, maps, support=support)
        behind = stages_of(encoder, learner.first)
        return run_stages(behind, self._solution.weights, maps, support=support).flatten(1)

    def _normalised(self, positions: Int[Tensor, " B"]) -> Float[Tensor, "B 3 S S"]:
        images = as_values(self._images[positions])
        images = images.to(self._device, memory_format=torch.channels_last)
        return self._learner.encoder.normalised(images)

    @torch.no_grad()
    def _set_statistics(self, encoder: Encoder) -> None:
        """Have batch norms serve with the statistics of the images by which steps were taken."""
        statistics: dict[_BatchNorm, list[NormStatistics]] = defaultdict(list)

        def look(norm: _BatchNorm, inputs: tuple[Tensor]) -> None:
            over = [axis for axis in range(inputs[0].ndim) if axis != 1]
            variance, mean = torch.var_mean(inputs[0], dim=over, correction=0)
            statistics[norm].append(NormStatistics(mean, variance))

        norms = [module for module in encoder.modules() if isinstance(module, _BatchNorm)]
        hooks = [norm.register_forward_pre_hook(look) for norm in norms]
        for positions in self._parts:
            maps = self._normalised(positions)
            run_stages(stages_of(encoder), {}, maps, support=len(positions))
        for hook in hooks:
            hook.remove()
        sizes = torch.tensor([len(positions) for positions in self._parts], device=self._device)
        for norm, parts in statistics.items():
            mean, variance = pooled(parts, sizes / sizes.sum())
            norm.running_mean.copy_(mean)  # type: ignore[union-attr]
            norm.running_var.copy_(variance)  # type: ignore[union-attr]


class NormStatistics(NamedTuple):
    """What a batch norm divides by."""

    mean: Float[Tensor, " X"]
    variance: Float[Tensor, " X"]  # not corrected for the number of values


class Adaptation(NamedTuple):
    """A network in the hands of its own learner."""

    training: LearnedSteps

    def averaged(self) -> Encoder:
        """A copy of the encoder as it is now; steps have no average."""
        return self.training.adapted()


def adapt(
    learner: StepLearner, images: Images, targets: Int[Tensor, " M"], batch_size: int
) -> Adaptation:
    """Begin to adapt a copy of the encoder of a learner: see `LearnedSteps`.

    Raises:
        ValueError: the learner is for another number of labels.
    """
    return Adaptation(LearnedSteps(learner, images, targets, batch_size))


def even_parts(targets: Int[Tensor, " M"], size: int) -> list[Int[Tensor, " B"]]:
    """Positions of images in parts of about one size that have the classes evenly.

    Args:
        size: of a part, at most.
    """
    counts = torch.bincount(targets)
    order = targets.argsort(stable=True)
    ranks = torch.arange(len(targets)) - (counts.cumsum(0) - counts)[targets[order]]
    shares = (ranks + 0.5) / counts[targets[order]]  # how far it is in its class
    return list(order[shares.argsort(stable=True)].tensor_split(math.ceil(len(targets) / size)))


def pooled(parts: Sequence[NormStatistics], shares: Float[Tensor, " B"]) -> NormStatistics:
    """The statistics of all parts together: the variance within them, and between their means.

    Args:
        shares: of the values that each part has; they sum to 1.
    """
    means = torch.stack([part.mean for part in parts], dim=1)  # (X, B)
    mean = means @ shares
    variances = torch.stack([part.variance for part in parts], dim=1)
    return NormStatistics(mean, (variances + (means - mean.unsqueeze(1)).square()) @ shares)


def _leaves(solution: Solution) -> Solution:
    """The same values, to differentiate by."""
    return solution.replaced(
        [value.detach().clone().requires_grad_() for value in solution.tensors]
    )
