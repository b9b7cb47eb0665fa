"""Meta-learning: learning from labels of earlier work how to learn new ones from a handful."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models.encoders import Encoder, trainable_copy
from models.metalearning.episodes import (
    Episode,
    Episodes,
    EpisodeShape,
    LabelSplit,
    bounds,
    validation_episodes,
)
from models.registry import plugin_name
from models.training.loop import (
    Batch,
    Images,
    Objective,
    ParameterGroup,
    Training,
    as_values,
    split_decay,
)
from models.training.recipe import Recipe

PART_PIXELS = 8 * 224**2  # of an episode, whose activations are in memory at a time


VALIDATION_EPISODES = 100


DEAR_VALIDATION_EPISODES = 15  # where each is solved by many steps


class LeakingNorms(ValueError):
    """The encoder normalises by statistics of all images that it sees at once."""


class Plan(NamedTuple):
    """Which episodes an epoch has."""

    episodes: Episodes
    steps: int  # an epoch


class EpisodicObjective(Objective):
    """What all methods share: an epoch is a list of episodes of the labels to learn from."""

    tasks = 1  # episodes of a step
    works_in_parts = True  # whether memory of a step is bounded, however large its episodes are
    answers_cheaply = True  # whether answers cost no more than what `prepare` makes
    starts_well = False  # whether it may be that nothing is better than not to learn
    clip_norm: float | None = None  # of all gradients together; None: as the recipe says
    only_ways: int | None = None  # of an episode; None: any number
    warm_up = 0  # epochs before those of episodes

    def __init__(self) -> None:
        super().__init__()
        self.plan: Plan | None = None

    def set_plan(self, plan: Plan) -> None:
        """Learn from these episodes."""
        self.plan = plan

    def prepare(self, images: Tensor) -> Tensor:
        """What is made of each image of an episode on its own; as it is by default."""
        return images

    def logits(self, support: Tensor, query: Tensor) -> Float[Tensor, "Q C"]:
        """The log odds of the classes of an episode for its queries.

        Each query is answered as if it were the only one.

        Args:
            support: what `prepare` made of the support images, (C, K, ...).
            query: of the query images, (Q, ...).
        """
        raise NotImplementedError

    def order(
        self,
        images: int,
        targets: Int[Tensor, " N"] | None,
        recipe: Recipe,
        generator: Generator,
    ) -> Sequence[Int[Tensor, " B"]]:
        """An episode a step, or several of one size after each other."""
        assert self.plan is not None
        episodes, steps = self.plan
        return [
            torch.cat([episodes.draw(generator, size).positions for _ in range(self.tasks)])
            for size in (episodes.draw_size(generator) for _ in range(steps))
        ]

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Cross entropy of the queries, over the classes of their episode."""
        assert self.plan is not None
        labels = batch.targets.argmax(dim=1)
        prepared = self.prepare(batch.views[0])
        losses = []
        for part in torch.arange(len(labels)).chunk(self.tasks):
            ways = int((labels[part].bincount() > 0).sum())
            queries = ways * self.plan.episodes.shape.queries
            support = prepared[part[:-queries].reshape(ways, -1)]
            logits = self.logits(support, prepared[part[-queries:]])
            losses.append(F.cross_entropy(logits.float(), _classes(ways, queries).to(labels)))
        return torch.stack(losses).mean()

    def groups(self) -> list[ParameterGroup]:
        """All that needs gradients, at one rate."""
        return split_decay("all", self, 1.0)


class Episodic(EpisodicObjective):
    """Learns an encoder, and maybe more.

    Args:
        encoder: which learns.
        fresh: its weights are random, and its batch norms learn their statistics; otherwise they
            keep those that they have. Queries are never normalised by each other once it serves.
    """

    def __init__(self, encoder: Encoder, *, fresh: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.fresh = fresh

    def train(self, mode: bool = True) -> "Episodic":
        super().train(mode)
        if not self.fresh:
            self.encoder.eval()
        return self

    def in_parts(
        self, network: Callable[[Tensor], Tensor], images: Float[Tensor, "B 3 S S"]
    ) -> Float[Tensor, "B D"]:
        """What a network makes of images, with the activations of few of them in memory.

        They are computed again in the backward pass (Chen et al., 2016,
        https://arxiv.org/abs/1604.06174), unless norms take their statistics from all at once.
        """
        size = part_size(images.shape[-1])
        if len(images) <= size or (self.fresh and self.training) or not torch.is_grad_enabled():
            return network(images)
        parts = torch.split(images, size)
        return torch.cat([checkpoint(network, part, use_reentrant=False) for part in parts])


class WarmedUp(Episodic):
    """Learns by ordinary classification first: a linear layer tells all labels to learn from.

    Chen et al., 2021, the stages Classifier-Baseline and Meta-Baseline.
    https://arxiv.org/abs/2003.04390 The layer is left behind. Such an epoch has as many steps as
    one of episodes, of as many images each, drawn with labels equally often.

    Args:
        warm_up: epochs, before those of episodes.
    """

    epochs_begun: Int[Tensor, ""]

    def __init__(self, encoder: Encoder, *, fresh: bool, warm_up: int) -> None:
        super().__init__(encoder, fresh=fresh)
        self.warm_up = warm_up
        if warm_up:
            self.register_buffer("epochs_begun", torch.tensor(0))

    @property
    def classifies(self) -> bool:
        """Whether the epoch is one of ordinary classification."""
        return bool(self.warm_up) and int(self.epochs_begun) <= self.warm_up

    def set_plan(self, plan: Plan) -> None:
        super().set_plan(plan)
        if self.warm_up:
            mean, labels = self.encoder.mean, len(plan.episodes.members)
            self.classifier = nn.Linear(self.encoder.embedding_dim, labels, device=mean.device)
            nn.init.zeros_(self.classifier.weight)
            nn.init.zeros_(self.classifier.bias)

    def before_epoch(self, images: Images) -> None:
        if self.warm_up:
            self.epochs_begun += 1

    def order(
        self,
        images: int,
        targets: Int[Tensor, " N"] | None,
        recipe: Recipe,
        generator: Generator,
    ) -> Sequence[Int[Tensor, " B"]]:
        episodes = super().order(images, targets, recipe, generator)
        if not self.classifies:
            return episodes
        assert self.plan is not None
        members = self.plan.episodes.members.values()
        rows = torch.cat(list(members))
        weights = torch.cat([torch.full((len(part),), 1 / len(part)) for part in members])
        return [
            rows[torch.multinomial(weights, len(part), replacement=True, generator=generator)]
            for part in episodes
        ]

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Cross entropy, over the labels to learn from; or over those of an episode."""
        if not self.classifies:
            return super().loss(batch)
        assert self.plan is not None
        labels = batch.targets[:, list(self.plan.episodes.members)].argmax(dim=1)
        features = self.in_parts(self.encoder.features, batch.views[0])
        return F.cross_entropy(self.classifier(features).float(), labels)


def in_full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Inside, nothing is in half precision, also where the caller trains in it."""
    if device.type == "meta":  # where there is no precision, and no autocast
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def part_size(side: int) -> int:
    """How many images of a side, in pixels, are in work at a time."""
    return max(1, PART_PIXELS // side**2)


@runtime_checkable
class MetaMethod(Protocol):
    """The options of one way to learn across episodes."""

    fewest_labels: ClassVar[int]  # with which it learns something that holds for others
    unsuited: ClassVar[str]  # when not to use it

    def build(self, encoder: Encoder, *, fresh: bool) -> Episodic:
        """The objective, with an encoder that will learn."""
        ...


def start(
    method: MetaMethod,
    encoder: Encoder,
    images: Images,
    targets: Int[Tensor, " M"],
    split: LabelSplit,
    shape: EpisodeShape,
    recipe: Recipe,
    *,
    episodes_an_epoch: int,
    fresh: bool,
) -> Training:
    """Begin to meta-train a copy of an encoder, which is the `encoder` of the objective.

    After each epoch it is judged on the same episodes of the labels of `split.validation`, and the
    best state is kept; without such labels it is not judged.

    Args:
        images: decoded, as the encoder wants them.
        targets: the label of each image.
        recipe: with epochs and a rate; what it says of batches does not count.
        fresh: the weights are random.

    Raises:
        TooFewForEpisodes: a part of the labels does not suffice for an episode.
        LeakingNorms: the encoder has norms by which queries would know of each other.
    """
    require_no_leak(encoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        objective = method.build(trainable_copy(encoder, fresh=fresh), fresh=fresh)
    objective.to(encoder.mean.device)
    return train_on_episodes(objective, images, targets, split, shape, recipe, episodes_an_epoch)


def train_on_episodes(
    objective: EpisodicObjective,
    images: Images,
    targets: Int[Tensor, " M"],
    split: LabelSplit,
    shape: EpisodeShape,
    recipe: Recipe,
    episodes_an_epoch: int,
) -> Training:
    """Begin to train an objective; as `start` says."""
    count = VALIDATION_EPISODES if objective.answers_cheaply else DEAR_VALIDATION_EPISODES
    validation = validation_episodes(targets, split.validation, shape, count, recipe.seed)
    if validation and objective.only_ways not in (None, len(validation[0].labels)):
        validation = []  # of too few labels
    steps = -(-episodes_an_epoch // objective.tasks)
    objective.set_plan(Plan(Episodes(targets, split.train, shape), steps))
    objective.train()
    recipe = replace(recipe, epochs=recipe.epochs and recipe.epochs + objective.warm_up)
    if objective.clip_norm is not None:
        recipe = replace(recipe, clip_norm=objective.clip_norm)

    def judge() -> float:
        return float(accuracies(objective, images, validation).mean())

    return Training(
        objective,
        images,
        targets,
        recipe,
        judge=judge if validation else None,
        keeps_best=True,
        judges_start=objective.starts_well,
    )


@torch.no_grad()
def accuracies(
    objective: EpisodicObjective, images: Images, episodes: Sequence[Episode]
) -> Float[Tensor, " R"]:
    """The share of queries, 0..1, that an objective gets right in each episode."""
    was_training = objective.training
    objective.eval()
    drawn = torch.cat([episode.positions for episode in episodes])
    positions = (torch.bincount(drawn) > 0).nonzero().flatten()
    device = next(objective.parameters()).device
    first = images[positions[:1]]
    size = part_size(first.shape[-1]) if first.ndim == 4 else len(positions)
    prepared = torch.cat(
        [
            objective.prepare(as_values(images[part]).to(device))
            for part in torch.split(positions, size)
        ]
    )
    shares = []
    for episode in episodes:
        support = prepared[torch.searchsorted(positions, episode.support.contiguous())]
        query = prepared[torch.searchsorted(positions, episode.query.flatten().contiguous())]
        answers = objective.logits(support, query).argmax(dim=1).cpu()
        right = answers == _classes(len(episode.query), len(answers))
        shares.append(right.float().mean())
    objective.train(was_training)
    return torch.stack(shares)


def require_suited(method: object, shape: EpisodeShape) -> None:
    """Refuse episodes of a number of labels that a method cannot have.

    Args:
        method: the options of one.

    Raises:
        ValueError: its last layer begins with a fixed number of rows.
    """
    only = getattr(method, "only_ways", None)
    if only is not None and bounds(shape.ways) != (only, only):
        raise ValueError(
            f"`ways` must be {only}, as many as the last layer of {plugin_name(method)!r} begins "
            "with; or take another `start`"
        )


def require_no_leak(encoder: Encoder) -> None:
    """Refuse norms that take statistics from all images at once even when they serve.

    Raises:
        LeakingNorms: names them.
    """
    leaking = [
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.track_running_stats
    ]
    if leaking:
        raise LeakingNorms(
            f"{', '.join(leaking)} normalise by the other images of a batch, so that the answer "
            "for an image would depend on those that come with it; use an encoder whose batch "
            "norms keep running statistics"
        )


def _classes(ways: int, queries: int) -> Int[Tensor, " Q"]:
    """The class of each query of an episode: as many of each, one class after the other."""
    return torch.arange(ways).repeat_interleave(queries // ways)
