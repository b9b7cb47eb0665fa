"""What meta-training would cost here, by a few episodes of it."""

import time

import torch
from torch import Generator
from torch.nn import functional as F

from models.encoders import Encoder
from models.metalearning import MetaMethod, part_size, start
from models.metalearning.adaptation import LearnedSteps, StepLearner
from models.metalearning.episodes import EpisodeShape, LabelSplit, bounds
from models.metalearning.heads import HeadMethod, start_head
from models.training.cost import Cost, count_saved, measure_steps
from models.training.recipe import Recipe

STEPS = 2  # after one that is not counted


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
    parts = -(-count // batch_size)
    pixels = min(batch_size, count) * noise[0].numel() * 4  # float32
    return Cost(
        (runs * seconds + looks * embedding) / count * images,
        2 * weights + 4 * remembered + saved.bytes // parts + pixels,
    )


def measure_episodes(
    method: MetaMethod, encoder: Encoder, shape: EpisodeShape, episodes: int
) -> Cost:
    """Learn from some episodes of noise, and multiply.

    The seconds are those of episodes of the mean size; the memory that of the largest, of which
    a part is in work at a time.

    Args:
        episodes: that there will be.

    Raises:
        LeakingNorms: the encoder has norms by which queries would know of each other.
    """
    shots = bounds(shape.shots)[0]
    generator, side = Generator().manual_seed(0), encoder.preprocessing.crop
    part = part_size(side)
    ways = max(2, min(bounds(shape.ways)[0], part // (shots + shape.queries)))
    small = EpisodeShape(ways=ways, shots=shots, queries=shape.queries)
    count = ways * small.images
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
    mean = _mean_images(shape)
    most = bounds(shape.ways)[1] * shape.images
    held = min(most, part) if training.objective.works_in_parts else most * tasks
    activations = step.activations // tasks * held // count
    pixels = most * tasks * noise[0].numel() * 4  # float32
    return Cost(
        step.seconds / tasks / count * mean * episodes, 4 * step.weights + activations + pixels
    )


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


def _mean_images(shape: EpisodeShape) -> float:
    """Of an episode."""
    return sum(bounds(shape.ways)) / 2 * (sum(bounds(shape.shots)) / 2 + shape.queries)
