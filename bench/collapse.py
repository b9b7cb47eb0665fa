"""Whether the collapse alarm ends runs that were sabotaged, and leaves healthy ones alone.

Every method learns from Fashion-MNIST as it should; then with a temperature of 0.001, with views
that change nothing, and, where another network is followed, with gradients through that one too.
"""

import argparse
import functools
import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from bench.harness import arguments, finish
from bench.pretraining import images, network
from models.pretraining import Collapsed, PretrainingMethod, Unsuited, start
from models.pretraining.methods import methods
from models.pretraining.views import Views
from models.training.loop import Training
from models.training.recipe import Recipe

STILL = Views(crop=1.0, flip=0.0, colour=0.0, grey=0.0, blur=0.0)
COLD = 1e-3  # temperature
BATCH, IMAGES = 32, 3200
CAUGHT_WITHIN = 200  # steps


class Task(NamedTuple):
    """One run."""

    method: str
    sabotage: str
    network: str
    seed: int
    steps: int


class Outcome(NamedTuple):
    """When the alarm rang, in steps, and what it said."""

    task: Task
    step: int | None
    reason: str


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--networks", nargs="+", default=["conv4", "vit"])
    parser.add_argument("--methods", nargs="+", default=sorted(methods))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500, help="of healthy runs")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.networks, options.steps = 1, ["conv4"], 200
    outcomes = []
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for outcome in pool.imap_unordered(run, _tasks(options)):
            if outcome is not None:
                outcomes.append(outcome)
                method, sabotage, net, seed, _ = outcome.task
                rang = f"step {outcome.step}: {outcome.reason}" if outcome.step else "silent"
                print(f"{net} {method}, {sabotage}, seed {seed}: {rang}", flush=True)
    _finish(options, outcomes)


def run(task: Task) -> Outcome | None:
    """Train, and see when the alarm rings; None where the method cannot be had."""
    torch.set_num_threads(1)
    pixels = images("fashion").train[:IMAGES]
    encoder = network(task.network, pixels.shape[-1], task.seed)
    epochs = -(-task.steps // (IMAGES // BATCH))
    recipe = Recipe(batch_size=BATCH, seed=task.seed, epochs=epochs)
    try:
        training = SABOTAGES[task.sabotage](
            methods[task.method](),
            functools.partial(start, encoder=encoder, images=pixels, recipe=recipe, fresh=True),
        )
    except Unsuited:
        return None
    if training is None:
        return None
    steps = 0
    try:
        for _ in itertools.islice(training.steps(), task.steps):
            steps += 1
    except Collapsed as trouble:
        return Outcome(task, steps + 1, str(trouble))
    return Outcome(task, None, "")


Start = Callable[[PretrainingMethod], Training]


def _healthy(method: PretrainingMethod, begin: Start) -> Training | None:
    return begin(method)


def _cold(method: Any, begin: Start) -> Training | None:
    if hasattr(method, "contrast") and method.contrast.loss != "triplet":
        return begin(replace(method, contrast=replace(method.contrast, temperature=COLD)))
    return None


def _still(method: Any, begin: Start) -> Training | None:
    """Two views that are one; a method of one view, or of parts, has none."""
    if not hasattr(method, "views"):
        return None
    same = {"solarize": 0.0} if hasattr(method, "solarize") else {}
    training = begin(replace(method, views=STILL, **same))
    nothing = torch.zeros(2, 0)
    views, _ = training.objective.see(torch.rand(2, 3, 32, 32), nothing, torch.Generator())
    return training if len(views) > 1 and views[0].shape == views[1].shape else None


def _gradients_everywhere(method: PretrainingMethod, begin: Start) -> Training | None:
    """Both networks of BYOL are one, and it learns from both sides."""
    training = begin(method)
    objective: Any = training.objective
    if not hasattr(objective, "predictor"):
        return None
    objective._wanted = lambda views: [
        objective.head(objective.encoder.features(view)) for view in views
    ]
    return training


SABOTAGES: dict[str, Callable[[Any, Start], Training | None]] = {
    "healthy": _healthy,
    "temperature 0.001": _cold,
    "constant views": _still,
    "no stop-gradient": _gradients_everywhere,
}


def _tasks(options: argparse.Namespace) -> Iterator[Task]:
    for seed, net, method, sabotage in itertools.product(
        range(options.seeds), options.networks, options.methods, SABOTAGES
    ):
        steps = options.steps if sabotage == "healthy" else CAUGHT_WITHIN
        yield Task(method, sabotage, net, seed, steps)


def _finish(options: argparse.Namespace, outcomes: Sequence[Outcome]) -> None:
    healthy = [one for one in outcomes if one.task.sabotage == "healthy"]
    sabotaged = [one for one in outcomes if one.task.sabotage != "healthy"]
    false = [one for one in healthy if one.step]
    missed = [one for one in sabotaged if not one.step]
    result = {
        "healthy_steps": options.steps,
        "caught_at_steps": {
            name: sorted(one.step for one in sabotaged if one.task.sabotage == name and one.step)
            for name in list(SABOTAGES)[1:]
        },
        "false_alarms": [[*one.task, one.step, one.reason] for one in false],
        "missed": [list(one.task) for one in missed],
    }
    headline = (
        f"{len(sabotaged) - len(missed)} of {len(sabotaged)} sabotaged runs were ended within "
        f"{CAUGHT_WITHIN} steps, {len(false)} of {len(healthy)} healthy ones in {options.steps}"
    )
    finish(options, result, headline, kept=not missed and not false)


if __name__ == "__main__":
    main()
