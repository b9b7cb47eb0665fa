"""Centroids that move to where the rest of their class is said to lie, beside plain rivals.

The job `generate` learns from the training images as a pool, before any has a label: from clusters
of them, and it chooses by held-out clusters what moves centroids at each number of shots. Then
labels come: accuracy on the test images over draws of 1, 2, 5 and 20 shots, with the weights that
it chose and, in hindsight, with a fixed one; beside `cosine`, `mahalanobis`, `blend`, and the
transduction of the first draws. The gain over `blend` has the interval over draws, on the same test
images. Groups by chance must be given no weight.
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from bench.data import DataSet, Draw, draw_classes, embedded
from bench.figures import progress
from bench.harness import ENCODER, FOLDERS, Options, Result, option, run
from models.generation import Groups
from models.generation.choice import Choice, Generation, Trial, trials
from models.generation.generators import generators
from models.generation.mover import SHOTS, MovedHead, Mover
from models.heads import FittedHead, Head, center_and_normalize
from models.heads.kinds.auto import Auto
from models.heads.kinds.blend import Blend
from models.heads.kinds.cosine import Cosine
from models.heads.kinds.mahalanobis import Mahalanobis
from models.transduction.alpha_tim import AlphaTim, PartlyLabeled, Transduction

WAYS = 10
KINDS = ("nearest", "clusters", "gaussian", "cvae")
HINDSIGHT = 0.5  # a weight to show each kind by
OWN = "generate, by its own weights"
TRANSDUCED = 5  # draws, at most: it takes seconds
FIRST_GAIN, BEHIND = 2.0, -0.3  # points over `blend` at one shot, and at the others
PLAIN: dict[str, Head] = {
    "cosine": Cosine(centered=True),
    "mahalanobis": Mahalanobis(),
    "blend": Blend(),
}


class Learned(NamedTuple):
    """What the job makes of a pool."""

    choices: list[Choice]
    own: Mover
    fixed: dict[str, Mover]  # by kind
    used_latents: int
    seconds: float  # of a processor


def measure(options: Options) -> Result:
    """Learn from each pool, and judge on draws of its labels."""
    torch.set_num_threads(1)
    sets: dict[str, Any] = {}
    headlines, met = [], True
    for data in [embedded(folder, options.encoder) for folder in options.images]:
        figures, text, is_met = _judge(data, options)
        sets[data.name] = figures
        headlines.append(f"{data.name}: {text}")
        met &= is_met
    return Result({"data": sets}, "; ".join(headlines), met)


def _judge(data: DataSet, options: Options) -> tuple[dict[str, Any], str, bool]:
    pool = center_and_normalize(data.train, data.mean)
    steps = 100 if options.quick else 1500
    learned = _learn(pool, steps)
    by_chance = _learn_by_chance(pool, steps)
    for choice in learned.choices:
        print(f"{data.name}: {choice.shots} shots: {choice.groups} {choice.weight}", flush=True)
    cells: dict[str, Any] = {}
    gains: dict[int, tuple[float, float]] = {}
    for shots in SHOTS:
        draws = [_draw(data, shots, seed) for seed in range(options.seeds)]
        accuracies = _accuracies(draws, learned, pool)
        before = accuracies["blend"]
        cells[f"{shots} shots"] = {
            name: _row(accuracy, before[: len(accuracy)]) for name, accuracy in accuracies.items()
        }
        gains[shots] = _interval(accuracies[OWN] - before)
    (first, margin), later = gains[1], [gains[shots][0] for shots in SHOTS[1:]]
    reached = first >= FIRST_GAIN and first - margin > 0 and min(later) >= BEHIND
    met = not by_chance and (reached or options.quick)  # three draws prove no gain
    told = ", ".join(f"{gain:+.1f} +- {margin:.1f} at {n}" for n, (gain, margin) in gains.items())
    text = (
        f"{told} shots against blend by {_moved_by(learned.choices)}; groups by chance have "
        f"{'a' if by_chance else 'no'} weight"
    )
    figures = {
        "cells": cells,
        "choices": [_choice(choice) for choice in learned.choices],
        "weight_of_groups_by_chance": by_chance,
        "used_latents": learned.used_latents,
        "learning_cpu_seconds": round(learned.seconds, 1),
    }
    return figures, text, met


def _learn(pool: Tensor, steps: int) -> Learned:
    started = time.process_time()
    nothing = torch.empty(0, dtype=torch.long)
    generation = _generation(trials(pool[:0], nothing, pool, seed=0), KINDS, steps)
    choices = generation.choices()
    _, own = generation.mover(choices)
    fixed = {
        kind: Mover((kind,) * len(SHOTS), (HINDSIGHT,) * len(SHOTS), {kind: target})
        for kind, target in generation.targets.items()
    }
    autoencoder: Any = generation.targets["cvae"]
    used = autoencoder.used_latents(generation.groups)
    return Learned(choices, own, fixed, used, time.process_time() - started)


def _learn_by_chance(pool: Tensor, steps: int) -> float:
    """The largest weight that groups by chance are given, by the same clusters."""
    nothing = torch.empty(0, dtype=torch.long)
    found = trials(pool[:0], nothing, pool, seed=0)
    generator = Generator().manual_seed(0)
    shuffled = [trial._replace(groups=_shuffled(trial.groups, generator)) for trial in found]
    generation = _generation(shuffled, ("clusters", "gaussian", "cvae"), steps)
    return max(choice.weight for choice in generation.choices())


def _shuffled(groups: Groups, generator: Generator) -> Groups:
    order = torch.randperm(len(groups.groups), generator=generator)
    return groups._replace(groups=groups.groups[order])


def _generation(found: Sequence[Trial], names: Sequence[str], steps: int) -> Generation:
    """One that has done all its epochs."""
    kinds: dict[str, Any] = {name: generators[name]() for name in names}
    kinds["cvae"] = generators["cvae"](steps=steps)  # type: ignore[call-arg]
    generation = Generation(kinds, found, {"auto": Auto()}, 0)
    for step in generation:
        epoch = step.epoch
        if epoch.number == epoch.of:
            print(f"{step.trial}, {step.kind}: loss {epoch.loss:.2f}", flush=True)
    return generation


def _draw(data: DataSet, shots: int, seed: int) -> Draw:
    generator = np.random.default_rng(seed)
    ways = min(WAYS, len(data.labels))
    labels = sorted(generator.choice(data.labels, ways, replace=False).tolist())
    return draw_classes(data, "", shots, labels, generator)


def _accuracies(draws: Sequence[Draw], learned: Learned, pool: Tensor) -> dict[str, Tensor]:
    """Of each head on each draw, in percent."""
    heads = {
        **PLAIN,
        OWN: MovedHead(network=learned.own),
        **{f"{kind} {HINDSIGHT}": MovedHead(network=m) for kind, m in learned.fixed.items()},
    }
    accuracies = {
        name: torch.tensor([_accuracy(head, draw) for draw in progress(draws, name)])
        for name, head in heads.items()
    }
    accuracies["transduce"] = torch.tensor([_transduced(draw) for draw in draws[:TRANSDUCED]])
    return accuracies


def _accuracy(head: Head, draw: Draw) -> float:
    data = draw.data
    support = data.train[draw.support].float()
    fitted: FittedHead = head.fit(support, draw.targets, int(draw.targets.max()) + 1, data.mean)
    return _percent(fitted.scores(data.test[draw.queries].float()), draw)


def _transduced(draw: Draw) -> float:
    """Test images are seen as a part of the pool."""
    data = draw.data
    everything = torch.cat([data.train, data.test])
    labeled = torch.zeros(len(everything), dtype=torch.bool)
    labeled[draw.support] = True
    images = PartlyLabeled(
        everything,
        (~labeled).nonzero().flatten(),
        draw.support,
        draw.targets,
        int(draw.targets.max()) + 1,
        data.mean,
    )
    transduction = Transduction(images, AlphaTim())
    for _ in transduction:
        pass
    return _percent(transduction.scores(len(data.train) + draw.queries), draw)


def _percent(scores: Tensor, draw: Draw) -> float:
    return 100 * float((scores.argmax(dim=1) == draw.truth).double().mean())


def _row(accuracy: Tensor, before: Tensor) -> dict[str, float]:
    gain, margin = _interval(accuracy - before)
    return {
        "accuracy": round(float(accuracy.mean()), 2),
        "gain": round(gain, 2),
        "margin": round(margin, 2),
        "draws": len(accuracy),
    }


def _interval(gains: Tensor) -> tuple[float, float]:
    """The mean and half its 95 % interval over draws."""
    margin = 1.96 * float(gains.std()) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    return float(gains.mean()), margin


def _choice(choice: Choice) -> dict[str, Any]:
    return {
        "shots": choice.shots,
        "groups": choice.groups,
        "weight": choice.weight,
        "best": choice.best,
        "judged_by": choice.judged_by,
        "probability_ahead_of": {
            name: round(verdict.probability, 3) for name, verdict in choice.against.items()
        },
    }


def _moved_by(choices: Sequence[Choice]) -> str:
    return ", ".join(f"{c.groups} {c.weight:g}" for c in choices)


if __name__ == "__main__":
    run(measure, FOLDERS, ENCODER, option("--seeds", 20, quick=3))
