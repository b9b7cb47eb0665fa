"""Learning across characters of Omniglot from random weights, and episodes to test with."""

import time
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from bench.harness import Options
from bench.omniglot import SIDE, Characters
from models.encoders.architectures.conv4 import Conv4
from models.metalearning import MetaMethod, start
from models.metalearning.episodes import Episode, Episodes, EpisodeShape, LabelSplit
from models.registry import plugin_name
from models.training.recipe import Recipe

SHOTS = (1, 5)  # of an episode to learn from
QUERIES, TESTED_QUERIES = 5, 15  # of each label, in training and test
AN_EPOCH = 50  # episodes
VALIDATED = 30  # labels


class Learned(NamedTuple):
    """A method that has learned."""

    objective: Any
    episodes: int
    cpu_seconds: float


def learn(
    method: MetaMethod,
    train: Characters,
    validation: Characters | None,
    options: Options,
    *,
    seed: int,
    shots: tuple[int, int] = SHOTS,
    name: str = "",
) -> Learned:
    """Learn from the characters to learn from; the best state by some that were not.

    Args:
        options: `episodes`, `ways`, `width` and `rate`.
        name: of the method, where it is no plug-in.
    """
    images, targets, split = _with_validation(train, validation, seed)
    training = start(
        method,
        Conv4(width=options.width, image_side=SIDE, seed=seed).build(),
        images,
        targets,
        split,
        EpisodeShape(ways=options.ways, shots=shots, queries=QUERIES),
        Recipe(
            epochs=-(-options.episodes // AN_EPOCH),
            rate=options.rate,
            weight_decay=0.0,
            schedule="one_cycle",
            clip_norm=10.0,
            seed=seed,
        ),
        episodes_an_epoch=AN_EPOCH,
        fresh=True,
    )
    started = time.process_time()
    for epoch in training:
        spent = time.process_time() - started
        judged = "" if epoch.accuracy is None else f", {100 * epoch.accuracy:.1f} % of validation"
        place = f"{name or plugin_name(method)} {epoch.number}/{epoch.of}"
        print(f"{place}: loss {epoch.loss:.2f}{judged}, {spent:.0f} CPU s", flush=True)
    training.restore_best()
    spent = time.process_time() - started
    return Learned(training.objective, training.epoch * AN_EPOCH, spent)


def _with_validation(
    train: Characters, validation: Characters | None, seed: int
) -> tuple[Tensor, Tensor, LabelSplit]:
    """Images, targets and what they are there for; of validation, some characters."""
    labels = len(train.names)
    if validation is None:
        return train.images, train.targets, LabelSplit(list(range(labels)), [], [])
    chance = Generator().manual_seed(seed)
    chosen = torch.randperm(len(validation.names), generator=chance)[:VALIDATED]
    rows = torch.isin(validation.targets, chosen).nonzero().flatten()
    images = torch.cat([train.images, validation.images[rows]])
    targets = torch.cat([train.targets, labels + validation.targets[rows]])
    return images, targets, LabelSplit(list(range(labels)), (labels + chosen).tolist(), [])


def draw_episodes(data: Characters, ways: int, shots: int, count: int) -> list[Episode]:
    """The same ones each time."""
    shape = EpisodeShape(ways=ways, shots=shots, queries=TESTED_QUERIES)
    episodes = Episodes(data.targets, range(len(data.names)), shape)
    chance = Generator().manual_seed(0)
    return [episodes.draw(chance) for _ in range(count)]


def interval(accuracies: Tensor) -> list[float]:
    """The mean over episodes in percent, and half of its 95 % interval, as papers have it."""
    half = 1.96 * float(accuracies.std()) / len(accuracies) ** 0.5
    return [round(100 * float(accuracies.mean()), 2), round(100 * half, 2)]
