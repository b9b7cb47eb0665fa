"""Three ways to fine-tune, and the choice among them, on images that nobody trained on.

For each draw of the labels: the plain prototypes, feature extraction (A), full (B) and
discriminative fine-tuning (C); then `auto`, which is what a job does: choose among all by
cross-validation and promote only what the guard finds better. The peer is fastai's `fine_tune` with
the same weights, images and number of passes.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from scipy import stats
from torch import Tensor

from bench.data import DataSet, decoded, draw_shots
from bench.figures import grouped, in_words, mean, means, timed
from bench.harness import PROCESSES, RESUME, Options, Result, option, peers, run
from bench.tasks import peer_of_process, run_all
from models.augmentation.kinds import augmentations
from models.encoders import Encoder
from models.encoders.architectures.efficientnet_lite import classifier_network
from models.encoders.specs import parse
from models.evaluation.comparison import compare
from models.finetuning import FinetuningMethod, GradientMethod, embed_all, resolve_recipe, start
from models.finetuning.lora import merge
from models.finetuning.methods import methods
from models.finetuning.model_selection import Selected, Selection
from models.heads.kinds.cosine import Cosine
from models.registry import plugin_name
from models.training.recipe import Recipe

SHOTS = (2, 5, 20, 100)
WAYS = {"A": "feature_extraction", "B": "full", "C": "discriminative"}
POLICY = [augmentations["geometric"](), augmentations["colour"]()]  # when nothing is said
CLEARLY = 0.5  # points; what counts as worse on the test images
Interval = tuple[float, float | None]  # a mean and half of its 95 % interval


class Task(NamedTuple):
    """One draw of one data set."""

    images: Path
    side: int
    shots: int
    seed: int
    peers: Path | None  # the Python that has fastai
    epochs: int  # 0: as a job does when nothing is said
    folds: int
    repeats: int

    @property
    def name(self) -> str:
        return self.images.resolve().name

    @property
    def recipe(self) -> Recipe:
        """What a job trains with when nothing is said; draws differ in their seed."""
        return Recipe(seed=self.seed, epochs=self.epochs)


class Draw(NamedTuple):
    """What came of a task: accuracy in %, CPU-seconds, and what the guard said to `auto`."""

    task: Task
    accuracy: dict[str, float]
    seconds: dict[str, float]
    verdict: dict[str, Any]

    @property
    def gain(self) -> float:
        """Points of the candidate over the prototypes, on the test images."""
        return self.accuracy["candidate"] - self.accuracy["prototypes"]


def measure(options: Options) -> Result:
    """Train on all draws."""
    how = 3 if options.quick else 0, options.folds, options.repeats
    tasks = [
        Task(folder, options.side, n, seed, options.peers, *how)
        for n in sorted(options.shots, reverse=True)  # the longest first: no core idles at the end
        for seed in range(options.seeds)
        for folder in options.images
    ]
    draws = [Draw(task, **outcome) for task, outcome in run_all(attempt, tasks, options).items()]
    draws.sort(key=lambda draw: (draw.task.name, draw.task.shots, draw.task.seed))
    return _result(draws)


def attempt(task: Task) -> dict[str, Any]:
    """Train in every way on one draw, choose among them, ask the guard, and the peer."""
    torch.set_num_threads(1)
    encoder = encoder_at(task.side)
    data = decoded(task.images, encoder.preprocessing)
    support, targets = draw_shots(data.targets, task.shots, task.seed)
    few = data.train[support]
    judge = partial(judge_encoder, data=data, few=few, targets=targets)
    accuracy = {"prototypes": judge(encoder)}
    seconds: dict[str, float] = {}
    for way, name in WAYS.items():
        train = partial(fine_tune, methods[name](), encoder, few, targets, task.recipe)
        tuned, seconds[way] = timed(train, time.process_time)
        accuracy[way] = judge(tuned)
    choose = partial(_choose, encoder, few, targets, task)
    (selected, before), seconds["auto"] = timed(choose, time.process_time)
    accuracy["candidate"] = judge(selected.encoder)
    hits, hits_before = (
        (classes == targets).float().mean(dim=0) for classes in (selected.predicted, before)
    )
    verdict = compare(hits, hits_before, targets)
    accuracy["auto"] = accuracy["candidate" if verdict.better else "prototypes"]
    way = next(way for way, name in WAYS.items() if name == plugin_name(selected.method))
    if task.peers:
        question = _question(task, encoder, data, support, targets)
        peer = peer_of_process(task.peers, "fastai_finetune")
        accuracy["fastai"], seconds["fastai"] = peer.ask(question)
    chosen = f"{way} {selected.share:g}"
    guard = {"chosen": chosen, "promoted": verdict.better, "reason": verdict.reason}
    return {"accuracy": accuracy, "seconds": seconds, "verdict": guard}


def _question(
    task: Task, encoder: Encoder, data: DataSet, support: Tensor, targets: Tensor
) -> dict[str, Any]:
    """What the peer gets: the same draw, weights and number of passes."""
    weights = classifier_network(0).state_dict()
    return {
        "images": data.train[support].numpy(),
        "targets": targets.numpy(),
        "test": data.test.numpy(),
        "test_targets": data.test_targets.numpy(),
        "weights": {name: tensor.numpy() for name, tensor in weights.items()},
        "seed": task.seed,
        "epochs": resolve_recipe(task.recipe, encoder, len(support)).epochs,
    }


@cache
def encoder_at(side: int) -> Encoder:
    """EfficientNet-Lite0, for images of a smaller side than it was trained with."""
    encoder = parse("efficientnet_lite:0")[1].build().eval()
    whole = encoder.preprocessing
    resize = round(side * whole.resize / whole.crop)
    encoder.preprocessing = replace(whole, resize=resize, crop=side)
    return encoder


def fine_tune(
    method: FinetuningMethod, encoder: Encoder, few: Tensor, targets: Tensor, recipe: Recipe
) -> Encoder:
    """An encoder after a training as a job does it."""
    assert isinstance(method, GradientMethod)
    tuning = start(method, encoder, few, targets, recipe, policy=POLICY)
    for _ in tuning.training:
        pass
    tuned = tuning.averaged()
    merge(tuned)
    return tuned


def judge_encoder(encoder: Encoder, *, data: DataSet, few: Tensor, targets: Tensor) -> float:
    """Accuracy in % on the test images, with few to learn from."""
    support, queries = embed_all(encoder, few), embed_all(encoder, data.test)
    return centroid_accuracy(support, targets, queries, data.test_targets)


def centroid_accuracy(support: Tensor, targets: Tensor, queries: Tensor, truth: Tensor) -> float:
    """Accuracy in % of the head that serves, fitted to the support."""
    head = Cosine().fit(support, targets, int(targets.max()) + 1, support.mean(dim=0))
    right = head.probabilities(queries).argmax(dim=1) == truth
    return 100 * float(right.float().mean())


def _choose(encoder: Encoder, few: Tensor, targets: Tensor, task: Task) -> tuple[Selected, Tensor]:
    """A choice among all ways as a job makes it, and what the encoder said before."""
    selection = Selection(
        encoder,
        few,
        targets,
        [methods[name]() for name in WAYS.values()],
        task.recipe,
        Cosine(),
        policy=POLICY,
        folds=min(task.folds, int(torch.bincount(targets).min())),
        repeats=task.repeats,
    )
    for _ in selection:
        pass
    return selection.result(), selection.predict(selection.embeddings)


def _result(draws: Sequence[Draw]) -> Result:
    groups = grouped((f"{draw.task.name} {draw.task.shots}", draw) for draw in draws)
    late = [draw.accuracy for draw in draws if draw.task.shots >= 20]
    pairs = {"B - A": ("B", "A"), "C - B": ("C", "B")}
    gains = _intervals(
        [{name: a[first] - a[second] for name, (first, second) in pairs.items()} for a in late]
    )
    ways = ("prototypes", *WAYS, "auto")
    regret = {}
    for cell, of in groups.items():
        average = means([draw.accuracy for draw in of], 9)
        regret[cell] = round(max(average[way] for way in ways) - average["auto"], 2)
    promoted = [draw for draw in draws if draw.verdict["promoted"]]
    worse = sum(draw.gain < -CLEARLY for draw in promoted)
    by_pair = ", ".join(f"{name} {in_words(gain)}" for name, gain in gains.items())
    headline = (
        (f"from 20 shots: {by_pair} points; " if gains else "")
        + f"auto at most {max(regret.values()):.1f} points behind the best; "
        f"{worse} of {len(promoted)} promotions were worse on the test images"
    )
    gained = all(gain > 0 for gain, _ in gains.values())
    goal_met = gained and max(regret.values()) <= CLEARLY and worse <= 0.01 * len(promoted)
    figures = {
        "accuracy": _by_way({cell: [d.accuracy for d in of] for cell, of in groups.items()}),
        "cpu_seconds": _by_way({cell: [d.seconds for d in of] for cell, of in groups.items()}),
        "gains_from_20_shots": gains,
        "auto_behind_the_best": regret,
        "promoted": len(promoted),
        "promoted_but_worse": worse,
        "kept_but_better": sum(d.gain > CLEARLY for d in draws if d not in promoted),
        "draws": [
            {
                "data": draw.task.name,
                "shots": draw.task.shots,
                "seed": draw.task.seed,
                **draw.verdict,
                **{way: round(value, 2) for way, value in draw.accuracy.items()},
            }
            for draw in draws
        ],
    }
    return Result(figures, headline, goal_met)


def _by_way(cells: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, Interval]]:
    intervals = {cell: _intervals(rows) for cell, rows in cells.items()}
    ways = next(iter(intervals.values()))
    return {way: {cell: row[way] for cell, row in intervals.items()} for way in ways}


def _intervals(rows: Sequence[dict[str, float]]) -> dict[str, Interval]:
    """Of each figure; none where there are no rows."""
    names = rows[0] if rows else ()
    return {name: _interval([row[name] for row in rows]) for name in names}


def _interval(values: Sequence[float]) -> Interval:
    """The mean and half of its 95 % interval, by Student's t; one value has none."""
    if len(values) < 2:
        return round(values[0], 2), None
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return round(mean(values), 2), round(float(half), 2)


if __name__ == "__main__":
    run(
        measure,
        option("--images", type=Path, nargs="+", required=True, help="data sets"),
        option("--side", 64, help="pixels"),
        option("--shots", SHOTS, quick=(2, 5), type=int, nargs="+"),
        option("--seeds", 5, quick=1),
        option("--folds", 3, help="at most, of each choice"),
        option("--repeats", 1, help="of the cross-validation"),
        RESUME,
        PROCESSES,
        peers("fastai"),
    )
