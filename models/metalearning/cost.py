"""What meta-training would cost here, by a few episodes of it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Generator
from torch.nn import functional as F

from models.encoders import Encoder, trainable_copy
from models.metalearning import MetaMethod, part_size, start
from models.metalearning.adaptation import LearnedSteps, StepLearner
from models.metalearning.episodes import EpisodeShape, LabelSplit, bounds
from models.metalearning.heads import HeadMethod, start_head
from models.registry import plugin_name
from models.training.cost import Cost, count_saved, measure_steps
from models.training.recipe import Recipe

STEPS = 2  # after one that is not counted
FIRST_STEP = 175_000_000  # bytes, for libraries that learning loads


def measure_adaptation(
    learner: StepLearner, images: int, labels: int, batch_size: int, *, runs: int, looks: int
) -> Cost:
    """Take a learned step or two over noise, and multiply.

    Args:
        images: of which there will be `batch_size` in memory at a time.
        runs: how often all steps are taken over all images.
        looks: how often all images are embedded besides.

    Raises:
        ValueError: the learner is for another number of labels.
    """
    encoder = learner.encoder
    generator, side = Generator().manual_seed(0), encoder.preprocessing.crop
    count = max(labels, min(batch_size, images))
    noise = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    steps = LearnedSteps(learner, noise, torch.arange(count) % labels, batch_size)
    with count_saved() as saved:
        epoch = next(steps)
    seconds = next(steps, epoch).seconds * epoch.of
    started = time.monotonic()
    encoder.embed(noise)
    embedding = time.monotonic() - started
    state = [*encoder.state_dict().values(), *steps.state()["solution"]]
    weights = sum(value.nbytes for value in state)
    remembered = sum(value.nbytes for value in steps.state()["memory"])
    pixels = min(batch_size, count) * noise[0].numel() * 4  # float32
    return Cost(
        (runs * seconds + looks * embedding) / count * images,
        2 * weights + 4 * remembered + saved.bytes + pixels,
    )


def measure_episodes(
    method: MetaMethod, encoder: Encoder, shape: EpisodeShape, episodes: int
) -> Cost:
    """Learn from some episodes of noise, and multiply.

    The seconds are those of episodes of the mean size; the memory that of the largest.

    Args:
        episodes: that there will be.

    Raises:
        LeakingNorms: the encoder has norms by which queries would know of each other.
    """
    generator, side = Generator().manual_seed(0), encoder.preprocessing.crop
    small = _part_of(shape, part_size(side))
    ways, count = bounds(small.ways)[0], _most_images(small)
    noise = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    training = start(
        method,
        encoder,
        noise,
        torch.arange(ways).repeat_interleave(small.images),
        LabelSplit(list(range(ways)), [], []),
        small,
        Recipe(epochs=1 + STEPS, rate=1e-6),
        episodes_an_epoch=1,
        fresh=False,
    )
    step, tasks = measure_steps(training), training.objective.tasks
    return Cost(
        step.seconds / tasks / count * _mean_images(shape) * episodes,
        episode_memory(method, encoder, shape, fresh=False),
    )


class Lighter(NamedTuple):
    """Options by which a method takes less memory."""

    options: Mapping[str, Any]
    memory: int  # bytes, with them


class TooLittleMemory(ValueError):
    """An episode takes more memory than there is.

    Attributes:
        memory: bytes that it takes.
        available: bytes that there are.
        fitting: options by which it fits, if the method has some.
    """

    def __init__(
        self, method: MetaMethod, memory: int, available: int, fitting: Sequence[Lighter]
    ) -> None:
        ways = [
            *(f"{_options(lighter.options)} ({_readable(lighter.memory)})" for lighter in fitting),
            *(f"`{name}`, which learns a head alone" for name in getattr(method, "as_heads", ())),
            "a smaller network",
            "fewer ways, shots or queries",
        ]
        super().__init__(
            f"{plugin_name(method)!r} takes about {_readable(memory)} of memory for the largest "
            f"episode with this network, and there are {_readable(available)}; take "
            f"{', '.join(ways[:-1])}, or {ways[-1]}"
        )
        self.memory, self.available, self.fitting = memory, available, fitting


def require_memory(
    method: MetaMethod,
    encoder: Encoder,
    shape: EpisodeShape,
    *,
    fresh: bool,
    available: int | None,
) -> None:
    """Refuse episodes that take more memory than there is.

    Where a part of an episode is in work at a time, it is taken to fit.

    Args:
        fresh: the weights are random.
        available: bytes; None: it is not known, and nothing is refused.

    Raises:
        TooLittleMemory: says how much it takes, and what would fit.
    """
    if available is None or _is_bounded(method, encoder, shape, fresh=fresh):
        return
    memory = episode_memory(method, encoder, shape, fresh=fresh)
    if memory <= available:
        return
    others = [
        Lighter(options, episode_memory(replace(method, **options), encoder, shape, fresh=fresh))  # type: ignore[type-var]
        for options in getattr(method, "lighter", ())
    ]
    fitting = [other for other in others if other.memory <= available]
    raise TooLittleMemory(method, memory, available, fitting)


def _is_bounded(method: MetaMethod, encoder: Encoder, shape: EpisodeShape, *, fresh: bool) -> bool:
    """Whether no more than a part of an episode is ever in work, or it is no larger than that."""
    is_small = _most_images(shape) <= part_size(encoder.preprocessing.crop)
    return method.build(encoder, fresh=fresh).works_in_parts and (is_small or not fresh)


def _options(options: Mapping[str, Any]) -> str:
    return " and ".join(f"`{name}: {value}`" for name, value in options.items())


def _readable(size: int) -> str:
    gib = 1 << 30
    return f"{size / gib:.1f} GiB" if size >= gib else f"{size / (1 << 20):.1f} MiB"


def episode_memory(
    method: MetaMethod, encoder: Encoder, shape: EpisodeShape, *, fresh: bool
) -> int:
    """Bytes for weights, their gradients and moments, and what the largest episode leaves behind.

    And for what any first step loads, as `bench.meta_memory` measures.

    An episode is answered without a number, on the meta device: in seconds, and in no memory to
    speak of, however much it would take. The first time loads 150 MB of torch.

    Args:
        fresh: the weights are random.
    """
    side = encoder.preprocessing.crop
    copied = trainable_copy(encoder, fresh=fresh).to("meta")
    with torch.device("meta"):
        objective = method.build(copied, fresh=fresh).train()
        whole = fresh or not objective.works_in_parts
        drawn = shape if whole else _part_of(shape, part_size(side))
        ways, shots = bounds(drawn.ways)[1], bounds(drawn.shots)[1]
        count = _most_images(drawn)
        with count_saved() as saved:
            prepared = objective.prepare(torch.empty(count, 3, side, side))
            support = prepared[: ways * shots].view(ways, shots, *prepared.shape[1:])
            objective.logits(support, prepared[ways * shots :])
    most, tasks = _most_images(shape), objective.tasks
    held = tasks * count if whole else min(most, part_size(side))
    weights = sum(int(tensor.nbytes) for tensor in objective.state_dict().values())
    pixels = most * tasks * 3 * side**2 * 4  # float32
    return FIRST_STEP + 4 * weights + saved.bytes * held // count + pixels


def measure_head_episodes(
    method: HeadMethod, dim: int, shape: EpisodeShape, episodes: int, images: int
) -> Cost:
    """The same for a head, by some of the largest episodes.

    Args:
        dim: components of an embedding.
        images: that are labeled, whose embeddings lie in memory twice.
    """
    ways, shots = bounds(shape.ways)[1], bounds(shape.shots)[1]
    largest = EpisodeShape(ways=ways, shots=shots, queries=shape.queries)
    count = ways * largest.images
    training = start_head(
        method,
        F.normalize(torch.randn(count, dim, generator=Generator().manual_seed(0)), dim=1),
        torch.arange(ways).repeat_interleave(largest.images),
        LabelSplit(list(range(ways)), [], []),
        largest,
        Recipe(epochs=1 + STEPS, rate=1e-6),
        episodes_an_epoch=1,
    )
    step = measure_steps(training)
    return Cost(
        step.seconds / count * _mean_images(shape) * episodes,
        4 * step.weights + step.activations + 2 * 4 * dim * images,
    )


def _part_of(shape: EpisodeShape, images: int) -> EpisodeShape:
    """Episodes of about so many images, of which a label has as few as it may have."""
    shots = bounds(shape.shots)[0]
    ways = max(2, min(bounds(shape.ways)[0], images // (shots + shape.queries)))
    return EpisodeShape(ways=ways, shots=shots, queries=shape.queries)


def _most_images(shape: EpisodeShape) -> int:
    """Of the largest episode."""
    return bounds(shape.ways)[1] * shape.images


def _mean_images(shape: EpisodeShape) -> float:
    """Of an episode."""
    return sum(bounds(shape.ways)) / 2 * (sum(bounds(shape.shots)) / 2 + shape.queries)
