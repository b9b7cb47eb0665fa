"""Whether the collapse alarm ends runs that were sabotaged, and leaves healthy ones alone.

Every method learns from Fashion-MNIST as it should; then with a temperature of 0.001, with views
that change nothing, and, where another network is followed, with gradients through that one too.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch

from bench.figures import grouped
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
    outcomes = run_all(attempt, tasks, options)
    alarms = {task: alarm for task, alarm in outcomes.items() if alarm}
    healthy = [task for task in alarms if task.sabotage == HEALTHY]
    sabotaged = [task for task in alarms if task.sabotage != HEALTHY]
    false = [task for task in healthy if alarms[task]["step"]]
    missed = [task for task in sabotaged if not alarms[task]["step"]]
    caught = grouped((t.sabotage, alarms[t]["step"]) for t in sabotaged if t not in missed)
    figures = {
        "healthy_steps": options.steps,
        "caught_at_steps": {name: sorted(caught.get(name, [])) for name in list(SABOTAGES)[1:]},
        "false_alarms": [[*task, alarms[task]["step"], alarms[task]["reason"]] for task in false],
        "missed": [list(task) for task in missed],
    }
    headline = (
        f"{len(sabotaged) - len(missed)} of {len(sabotaged)} sabotaged runs were ended within "
        f"{CAUGHT_WITHIN} steps, {len(false)} of {len(healthy)} healthy ones in {options.steps}"
    )
    return Result(figures, headline, not missed and not false)


def attempt(task: Task) -> dict[str, Any]:
    """Train, and see at which step the alarm rings and why; empty if there is no such run."""
    torch.set_num_threads(1)
    pixels = images("fashion").train[:IMAGES]
    encoder = network(task.network, pixels.shape[-1], task.seed)
    epochs = -(-task.steps // (IMAGES // BATCH))
    recipe = Recipe(batch_size=BATCH, seed=task.seed, epochs=epochs)
    begin = partial(start, encoder=encoder, images=pixels, recipe=recipe, fresh=True)
    try:
        training = SABOTAGES[task.sabotage](methods[task.method](), begin)
    except Unsuited:
        return {}
    steps, reason = train(training, task.steps)
    return {"step": steps + 1 if reason else None, "reason": reason}


Start = Callable[[PretrainingMethod], Training]


def _cold(method: Any, begin: Start) -> Training:
    if not hasattr(method, "contrast") or method.contrast.loss == "triplet":
        raise Unsuited("it has no temperature")
    return begin(replace(method, contrast=replace(method.contrast, temperature=COLD)))


def _still(method: Any, begin: Start) -> Training:
    """Two views that are one; a method of one view, or of parts, has none."""
    if not hasattr(method, "views"):
        raise Unsuited("it has no views")
    same = {"solarize": 0.0} if hasattr(method, "solarize") else {}
    training = begin(replace(method, views=STILL, **same))
    nothing = torch.zeros(2, 0)
    views, _ = training.objective.make_views(torch.rand(2, 3, 32, 32), nothing, torch.Generator())
    if len(views) < 2 or views[0].shape != views[1].shape:
        raise Unsuited("its views are not alike")
    return training


def _gradients_everywhere(method: PretrainingMethod, begin: Start) -> Training:
    """Both networks of BYOL are one, and it learns from both sides."""
    training = begin(method)
    objective: Any = training.objective
    if not hasattr(objective, "predictor"):
        raise Unsuited("it follows no other network")
    objective._targets = lambda views: [
        objective.head(objective.encoder.features(view)) for view in views
    ]
    return training


SABOTAGES: dict[str, Callable[[Any, Start], Training]] = {
    HEALTHY: lambda method, begin: begin(method),
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
