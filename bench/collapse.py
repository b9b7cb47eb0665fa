"""Whether the collapse alarm ends runs that were sabotaged, and leaves healthy ones alone.

Every method learns from Fashion-MNIST as it should; then with a temperature of 0.001, with views
that change nothing, and, where another network is followed, with gradients through that one too.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch

from bench.harness import PROCESSES, Options, Result, option, run
from bench.pretraining import images, network, train
from bench.tasks import run_all
from models.pretraining import PretrainingMethod, Unsuited, start
from models.pretraining.methods import methods
from models.pretraining.views import Views
from models.training.loop import Training
from models.training.recipe import Recipe

STILL = Views(crop=1.0, flip=0.0, colour=0.0, grey=0.0, blur=0.0)
HEALTHY = "healthy"
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


def measure(options: Options) -> Result:
    """Run all, and count the alarms."""
    tasks = [
        Task(method, sabotage, net, seed, options.steps if sabotage == HEALTHY else CAUGHT_WITHIN)
        for seed in range(options.seeds)
        for net in options.networks
        for method in options.methods
        for sabotage in SABOTAGES
    ]
    outcomes = run_all(attempt, tasks, options, _describe)
    alarms = {task: alarm for task, alarm in outcomes.items() if alarm["suited"]}
    healthy = [task for task in alarms if task.sabotage == HEALTHY]
    sabotaged = [task for task in alarms if task.sabotage != HEALTHY]
    false = [task for task in healthy if alarms[task]["step"]]
    missed = [task for task in sabotaged if not alarms[task]["step"]]
    figures = {
        "healthy_steps": options.steps,
        "caught_at_steps": {
            name: sorted(
                alarms[task]["step"]
                for task in sabotaged
                if task.sabotage == name and task not in missed
            )
            for name in list(SABOTAGES)[1:]
        },
        "false_alarms": [[*task, alarms[task]["step"], alarms[task]["reason"]] for task in false],
        "missed": [list(task) for task in missed],
    }
    headline = (
        f"{len(sabotaged) - len(missed)} of {len(sabotaged)} sabotaged runs were ended within "
        f"{CAUGHT_WITHIN} steps, {len(false)} of {len(healthy)} healthy ones in {options.steps}"
    )
    return Result(figures, headline, not missed and not false)


def _describe(task: Task, alarm: dict[str, Any]) -> str:
    rang = f"step {alarm['step']}: {alarm['reason']}" if alarm["step"] else "silent"
    return (
        f"{task.network} {task.method}, {task.sabotage}: {rang if alarm['suited'] else 'unsuited'}"
    )


def attempt(task: Task) -> dict[str, Any]:
    """Train, and see at which step the alarm rings and why."""
    torch.set_num_threads(1)
    pixels = images("fashion").train[:IMAGES]
    encoder = network(task.network, pixels.shape[-1], task.seed)
    epochs = -(-task.steps // (IMAGES // BATCH))
    recipe = Recipe(batch_size=BATCH, seed=task.seed, epochs=epochs)
    begin = partial(start, encoder=encoder, images=pixels, recipe=recipe, fresh=True)
    alarm: dict[str, Any] = {"suited": True, "step": None, "reason": ""}
    try:
        training = SABOTAGES[task.sabotage](methods[task.method](), begin)
    except Unsuited:
        training = None
    if training is None:
        return alarm | {"suited": False}
    steps, reason = train(training, task.steps)
    return alarm | ({"step": steps + 1, "reason": reason} if reason else {})


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
    views, _ = training.objective.make_views(torch.rand(2, 3, 32, 32), nothing, torch.Generator())
    return training if len(views) > 1 and views[0].shape == views[1].shape else None


def _gradients_everywhere(method: PretrainingMethod, begin: Start) -> Training | None:
    """Both networks of BYOL are one, and it learns from both sides."""
    training = begin(method)
    objective: Any = training.objective
    if not hasattr(objective, "predictor"):
        return None
    objective._targets = lambda views: [
        objective.head(objective.encoder.features(view)) for view in views
    ]
    return training


SABOTAGES: dict[str, Callable[[Any, Start], Training | None]] = {
    HEALTHY: _healthy,
    "temperature 0.001": _cold,
    "constant views": _still,
    "no stop-gradient": _gradients_everywhere,
}


if __name__ == "__main__":
    run(
        measure,
        option("--networks", ["conv4", "vit"], quick=["conv4"], nargs="+"),
        option("--methods", sorted(methods), nargs="+"),
        option("--seeds", 3, quick=1),
        option("--steps", 500, quick=200, help="of healthy runs"),
        PROCESSES,
    )
