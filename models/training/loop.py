"""The one training loop: an iterator over epochs that can stop anywhere and go on from there."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.training.recipe import Recipe, rate_at


class Diverged(ValueError):
    """The loss is no longer a number."""

    def __init__(self, epoch: int, loss: float) -> None:
        super().__init__(
            f"the loss was {loss} in epoch {epoch}: the learning rate is too high for this data"
        )
        self.epoch = epoch


class Batch(NamedTuple):
    """What an objective sees of some images."""

    views: list[Tensor]  # each (B, 3, S, S) with values in 0..1; or (B, D), when features are given
    positions: Int[Tensor, " B"]  # of the images in the data
    targets: Float[Tensor, "B C"]  # shares of the classes; they sum to 1


class ParameterGroup(NamedTuple):
    """Parameters that learn at one rate."""

    name: str
    parameters: list[nn.Parameter]
    rate: float  # as a factor of the recipe's
    decays: bool = True  # whether weight decay applies
    starts: float = 0.0  # share of the training before which the group is frozen


class Objective(nn.Module):
    """A loss with what it must learn or remember; its state is all of it."""

    def make_views(
        self, images: Tensor, shares: Float[Tensor, "B C"], generator: Generator
    ) -> tuple[list[Tensor], Float[Tensor, "B C"]]:
        """The views of some images, and their targets.

        Args:
            images: values in 0..1, (B, 3, S, S); or features of them, (B, D).
            shares: of the classes; none, (B, 0), where images have no labels.
        """
        return [images], shares

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """What a step lowers."""
        raise NotImplementedError

    def groups(self) -> list[ParameterGroup]:
        """What learns, and how fast."""
        raise NotImplementedError

    def before_epoch(self, images: "Images") -> None:
        """Look at all images once more, before each pass over them."""

    def order(
        self,
        images: int,
        targets: Int[Tensor, " N"] | None,
        recipe: Recipe,
        generator: Generator,
    ) -> Sequence[Int[Tensor, " B"]]:
        """The positions of the images of each step of an epoch; as many steps in each.

        All images once, or as many with every class equally often. Without labels the rest of an
        epoch is left out: its images are no contrast.

        Args:
            targets: their classes; None: they have no labels.
        """
        if targets is None or not recipe.balanced:
            order = torch.randperm(images, generator=generator)
        else:
            weights = 1 / torch.bincount(targets)[targets].double()
            order = torch.multinomial(weights, images, replacement=True, generator=generator)
        batches = torch.split(order, recipe.batch_size)
        incomplete = targets is None and len(batches[-1]) < recipe.batch_size
        return batches[:-1] if incomplete and len(batches) > 1 else batches

    def after_step(self, progress: float) -> None:
        """Follow what was learned.

        Args:
            progress: share of all steps, 0..1.
        """


@runtime_checkable
class Images(Protocol):
    """Images by position; several are asked for at once. A tensor is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, positions: Tensor, /) -> Tensor:
        """Decoded images, uint8 (B, 3, S, S); or features of them, float32 (B, D)."""
        ...


class Epoch(NamedTuple):
    """What one pass over the data brought."""

    number: int  # from 1
    of: int
    loss: float  # mean over the steps
    rates: dict[str, float]  # of each group at the end, as the optimizer holds them
    accuracy: float | None  # on what was held out, 0..1
    images: int
    seconds: float


class Training(Iterator[Epoch]):
    """Trains an objective, an epoch at a time.

    Everything that the next epoch depends on is in `state()`, so a run that was interrupted goes on
    as if it had not been: bit for bit on one CPU thread.

    Args:
        objective: what learns; it stays on the device on which it is.
        targets: the class of each image; None: they have no labels, and are drawn evenly.
        judge: held-out accuracy, 0..1, after each epoch.
        keeps_best: the best state by the judge, for `restore_best`.
        judges_start: so that the best state may be the one before the first step.

    Raises:
        ValueError: the recipe leaves the epochs or the rate open.
    """

    def __init__(
        self,
        objective: Objective,
        images: Images,
        targets: Int[Tensor, " N"] | None,
        recipe: Recipe,
        *,
        judge: Callable[[], float] | None = None,
        keeps_best: bool = False,
        judges_start: bool = False,
    ) -> None:
        if not (recipe.epochs and recipe.rate):
            raise ValueError("a training needs a number of epochs and a rate")
        self.objective: Any = objective
        self._images = images
        self._targets = targets
        self._classes = 0 if targets is None else int(targets.max()) + 1
        self._recipe = recipe
        self._judge = judge
        self._keeps_best = keeps_best
        self._judges_start = judges_start
        self._groups: Sequence[ParameterGroup] = objective.groups()
        self._optimizer = _optimizer(self._groups, recipe)
        self._average = (
            AveragedModel(
                objective,
                multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay),  # type: ignore[no-untyped-call]
                use_buffers=True,
            )
            if recipe.ema_decay
            else None
        )
        self._generator = Generator().manual_seed(recipe.seed)
        self._dropout = Generator().manual_seed(recipe.seed).get_state()
        self.epoch = 0  # finished
        self._step = 0
        self._steps_an_epoch = 1
        self._images_an_epoch = 0
        self._best = -1.0
        self._best_state: dict[str, Any] | None = None
        self._since_best = 0

    def __next__(self) -> Epoch:
        recipe = self._recipe
        stale = recipe.patience and self._since_best >= recipe.patience
        if self.epoch >= recipe.epochs or stale:
            raise StopIteration
        started = time.monotonic()
        if self.epoch == 0 and self._judges_start and self._judge:
            self._keep_if_best(self._judge())
        losses = [loss for _, loss in self._epoch()]
        self.epoch += 1
        accuracy = self._judge() if self._judge else None
        if accuracy is not None:
            self._keep_if_best(accuracy)
        return Epoch(
            self.epoch,
            recipe.epochs,
            sum(losses) / len(losses),
            self.rates,
            accuracy,
            self._images_an_epoch,
            time.monotonic() - started,
        )

    def restore_best(self) -> None:
        """Go back to the best state of the objective by the judge, where states are kept."""
        if self._best_state is not None:
            self.objective.load_state_dict(self._best_state)

    def _keep_if_best(self, accuracy: float) -> None:
        better = accuracy > self._best
        self._since_best = 0 if better else self._since_best + 1
        self._best = max(accuracy, self._best)
        if better and self._keeps_best:
            state = self.objective.state_dict()
            self._best_state = {name: tensor.clone() for name, tensor in state.items()}

    def steps(self) -> Iterator[tuple[float, float]]:
        """All steps, one by one: the fastest rate, and the mean loss of the step's images."""
        while self.epoch < self._recipe.epochs:
            yield from self._epoch()
            self.epoch += 1

    def _epoch(self) -> Iterator[tuple[float, float]]:
        with self._own_randomness():
            self.objective.before_epoch(self._images)
        batches = self.objective.order(
            len(self._images), self._targets, self._recipe, self._generator
        )
        self._steps_an_epoch, self._images_an_epoch = len(batches), sum(map(len, batches))
        for positions in batches:
            with self._own_randomness():
                loss = self._train(positions)
            yield max(self.rates.values()), loss

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """The global generator of torch is that of this training, and nobody else's."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._dropout)
            yield
            self._dropout = torch.get_rng_state()

    @property
    def rates(self) -> dict[str, float]:
        """The learning rate of each group, as the optimizer holds it."""
        return {group["name"]: group["lr"] for group in self._optimizer.param_groups}

    @property
    def averaged(self) -> Any:
        """The objective with averaged weights; the objective itself without an average."""
        return self.objective if self._average is None else self._average.module

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on: tensors and plain values, in nested dicts."""
        return {
            "objective": self.objective.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average.state_dict() if self._average else None,
            "chance": self._generator.get_state(),
            "dropout": self._dropout,
            "epoch": self.epoch,
            "step": self._step,
            "best": self._best,
            "since_best": self._since_best,
            "best_state": self._best_state,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state of a training with the same objective, data and recipe."""
        self.objective.load_state_dict(state["objective"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._generator.set_state(state["chance"])
        self._dropout = state["dropout"]
        self.epoch, self._step = state["epoch"], state["step"]
        self._best, self._since_best = state["best"], state["since_best"]
        self._best_state = state.get("best_state")  # older checkpoints have none

    def _shares(self, positions: Int[Tensor, " B"]) -> Float[Tensor, "B C"]:
        if self._targets is None:
            return torch.zeros(len(positions), 0)
        return F.one_hot(self._targets[positions], self._classes).float()

    def _train(self, positions: Int[Tensor, " B"]) -> float:
        """One step; the mean loss of its images."""
        device = next(self.objective.parameters()).device
        images, shares = self._images[positions], self._shares(positions)
        images = as_values(images)
        views, shares = self.objective.make_views(images, shares, self._generator)
        batch = Batch([_moved(view, device) for view in views], positions, shares.to(device))
        self._set_rates()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = self.objective.loss(batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Diverged(self.epoch + 1, value)
        loss.backward()
        if self._recipe.clip_norm:
            learning = [p for group in self._groups for p in group.parameters]
            nn.utils.clip_grad_norm_(learning, self._recipe.clip_norm)
        self._optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self.objective)
        self._step += 1
        self.objective.after_step(self._progress())
        return value

    def _progress(self) -> float:
        """The share of all steps that are done, 0..1 at the last one."""
        steps = self._recipe.epochs * self._steps_an_epoch
        return min(1.0, self._step / max(1, steps - 1))

    def _set_rates(self) -> None:
        progress = self._progress()
        factor = rate_at(self._recipe.schedule, progress)
        for group, options in zip(self._groups, self._optimizer.param_groups, strict=True):
            learns = progress >= group.starts
            options["lr"] = self._recipe.rate * group.rate * factor if learns else 0.0
            for parameter in group.parameters:
                parameter.requires_grad_(learns)


def _moved(view: Tensor, device: torch.device) -> Tensor:
    """A view on the device, its channels last, which is faster to convolve."""
    if view.ndim != 4:
        return view.to(device)
    return view.to(device, memory_format=torch.channels_last)


def as_values(images: Tensor) -> Tensor:
    """Decoded images with values in 0..1; features as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def split_decay(name: str, module: nn.Module, rate: float) -> list[ParameterGroup]:
    """A module's parameters, those that are no matrices apart: they do not decay."""
    learning = [p for p in module.parameters() if p.requires_grad]
    groups = [
        ParameterGroup(name, [p for p in learning if p.ndim > 1], rate),
        ParameterGroup(f"{name}.vectors", [p for p in learning if p.ndim <= 1], rate, decays=False),
    ]
    return [group for group in groups if group.parameters]


def _optimizer(groups: Sequence[ParameterGroup], recipe: Recipe) -> torch.optim.Optimizer:
    param_groups: list[dict[str, Any]] = [
        {
            "name": group.name,
            "params": group.parameters,
            "lr": recipe.rate * group.rate,
            "weight_decay": recipe.weight_decay if group.decays else 0.0,
        }
        for group in groups
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(param_groups, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(param_groups)
