"""Accuracy by the number of labels, for every way to choose them: ours and scikit-activeml's.

The first batch is drawn at random, the same for all; then each strategy chooses batch after batch,
up to 50 labels for each label of the data set or half of the pool, from a balanced pool and from
one whose labels have sizes by Zipf's law, 100 : 1. All are judged by the same head on the same
images: mean recall over labels, so that rare labels count. That head is nearest centroid by cosine,
which peers compute too, or with `--head` another, without peers. Who needs two labels before there
are two takes images at random. Seeds are shared out to processes of one thread each.
"""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from bench.data import DataSet, draw_shots, embedded
from bench.figures import grouped, mean_recall
from bench.harness import ENCODER, FOLDERS, PROCESSES, RESUME, Options, Result, option, peers, run
from bench.tasks import peer_of_process, run_all
from models.acquisition import Pool, of_labeled
from models.acquisition.strategies import strategies
from models.acquisition.strategies.random import Random
from models.evaluation.intervals import skill
from models.heads import FittedHead, center_and_normalize
from models.heads.kinds import heads

PER_LABEL = (1, 2, 3, 4, 5, 7, 10, 14, 20, 28, 38, 50)  # labels bought so far, for each label
QUICK = (1, 4)
LONG_TAIL = 100  # how much larger the largest label is than the smallest
THEIRS = (
    "least_confident", "margin", "entropy", "coreset", "typiclust", "probcover", "maxherding",
    "badge", "dropquery", "falcun", "clue", "contrastive",
)  # fmt: skip
PREFIX = "skactiveml "
JUDGED, BASE = "adaptive", "random"
PLAIN = "cosine"  # the head that peers compute too
RANK, SHARE, SHARE_LONG_TAIL = 2.0, 0.60, 0.35
SIGNIFICANT = 0.025  # of one side


class Labeled(NamedTuple):
    """What has been labeled so far, and the head that it makes."""

    rows: list[int]  # of the training images
    classes: Tensor  # that have images, in order
    targets: Tensor  # (U,), indices into `classes`
    head: FittedHead | None  # None before there are two


class Task(NamedTuple):
    """A pool, drawn by a seed, from which a strategy chooses, and images to judge with."""

    folder: Path | None  # of class folders; None: the digits
    encoder: str
    kind: str  # "balanced" or "zipf"
    head: str
    seed: int
    strategy: str
    stops: tuple[int, ...]
    peers: Path | None

    @property
    def data(self) -> DataSet:
        return embedded(self.folder, self.encoder)

    @property
    def setting(self) -> str:
        """The name of what it has in common with other seeds and strategies."""
        return f"{self.folder.resolve().name if self.folder else 'digits'}, {self.kind}"


Curves = dict[str, dict[str, Any]]  # of each seed, by setting and strategy


def measure(options: Options) -> Result:
    """Let each strategy choose in each setting, and compare."""
    folders = [None, *options.images][: 1 if options.quick else None]
    ours = [n for n in strategies if not of_labeled(strategies[n]()) and n != "rare_search"]
    theirs = [f"{PREFIX}{n}" for n in THEIRS if options.peers and options.head == PLAIN]
    names, stops = ours + theirs, QUICK if options.quick else PER_LABEL
    tasks = [
        Task(folder, options.encoder, kind, options.head, seed, name, stops, options.peers)
        for seed in range(options.seeds)
        for folder in folders
        for kind in ("balanced", "zipf")
        for name in names
    ]
    curves = run_all(attempt, tasks, options)
    settings = grouped((task.setting, (task.strategy, c["recall"])) for task, c in curves.items())
    recall = {
        setting: {name: np.array(of_seeds) for name, of_seeds in grouped(pairs).items()}
        for setting, pairs in settings.items()
    }
    return _result(names, stops, recall)


def attempt(task: Task) -> dict[str, Any]:
    """Mean recall at each budget, and how long the strategy and the head took."""
    torch.set_num_threads(1)
    data, pool = task.data, _pool(task)
    counts = [stop * len(set(data.targets[pool].tolist())) for stop in task.stops]
    # While half of the pool is left.
    budgets = [count for count in counts if count <= max(len(pool) // 2, counts[1])]
    started = time.perf_counter()
    generator = np.random.default_rng(1000 + task.seed)
    rows = generator.choice(pool, budgets[0], replace=False).tolist()
    mean = data.train[pool].double().mean(dim=0).float()
    labeled = _labeled(task, rows, mean)
    recalls = [_recall(data, labeled)]
    choose = _ask if task.strategy.startswith(PREFIX) else _choose
    for step, budget in enumerate(budgets[1:], 1):
        free = sorted(set(pool) - set(rows))
        rows = rows + choose(task, labeled, free, budget - len(rows), 100 * task.seed + step)
        labeled = _labeled(task, rows, mean)
        recalls.append(_recall(data, labeled))
    return {"recall": recalls, "seconds": round(time.perf_counter() - started, 2)}


def _pool(task: Task) -> list[int]:
    """Rows of the training images: as many of each label, or fewer and fewer."""
    sizes = np.bincount(task.data.targets)
    counts = np.full(len(sizes), sizes.min())
    if task.kind == "zipf":
        power = np.log(LONG_TAIL) / np.log(len(sizes))  # falls from 1 to 1 / LONG_TAIL
        falling = sizes.max() * stats.rankdata(-sizes, method="ordinal") ** -power
        counts = np.maximum(falling, 1).round().astype(int)
    rows, _ = draw_shots(task.data.targets, counts.tolist(), task.seed)
    return sorted(rows.tolist())


def _labeled(task: Task, rows: list[int], mean: Tensor) -> Labeled:
    classes, targets = torch.unique(task.data.targets[rows], return_inverse=True)
    head = None
    if len(classes) > 1:
        kind: Any = heads[task.head]
        head = kind(centered=True).fit(task.data.train[rows], targets, len(classes), mean)
    return Labeled(rows, classes, targets, head)


def _recall(data: DataSet, labeled: Labeled) -> float:
    """Mean recall over all labels; a label without images is never answered."""
    truth = data.test_targets
    best = torch.zeros_like(truth)
    if labeled.head is not None:
        best = labeled.head.probabilities(data.test.float()).argmax(dim=1)
    return mean_recall(truth, labeled.classes[best])


def _choose(task: Task, labeled: Labeled, free: list[int], budget: int, seed: int) -> list[int]:
    """By one of our strategies; a class without images is not known by name."""
    strategy, head = strategies[task.strategy](), labeled.head
    if task.strategy == BASE or (head is None and strategy.needs_classes):
        strategy = Random(seed=seed)
    pool = Pool(
        task.data.train,
        torch.tensor(free),
        head.probabilities if head else None,
        torch.tensor(labeled.rows),
        labeled.targets,
        mean=head.mean if head else None,
        skill=partial(_skill, task.data, labeled, head) if head else None,
        seed=seed,
    )
    return [free[place] for place in strategy.rank(pool, budget).indices.tolist()]


def _ask(task: Task, labeled: Labeled, free: list[int], budget: int, seed: int) -> list[int]:
    """By one of theirs, on the images as our head sees them."""
    head = labeled.head
    if head is None or head.mean is None or task.peers is None:
        return _choose(task._replace(strategy=BASE), labeled, free, budget, seed)
    vectors = task.data.train[free + labeled.rows]
    question = {
        "strategy": task.strategy.removeprefix(PREFIX),
        "budget": budget,
        "seed": seed,
        "vectors": center_and_normalize(vectors, head.mean).numpy(),
        "targets": labeled.targets.numpy(),
        "centroids": head.centroids.numpy(),
        "temperature": head.temperature,
    }
    return [free[place] for place in peer_of_process(task.peers, "active").ask(question)]


def _skill(data: DataSet, labeled: Labeled, head: FittedHead) -> float | None:
    judged = torch.bincount(labeled.targets)[labeled.targets] > 1
    if not bool(judged.any()):
        return None
    rows, targets = torch.tensor(labeled.rows)[judged], labeled.targets[judged]
    scores = head.leave_one_out(data.train[rows], targets)
    return skill(scores.argmax(dim=1) == targets, targets)


def _result(names: Sequence[str], stops: Sequence[int], recall: Curves) -> Result:
    # Few labels count as much as many, since batches grow; the first is the same for all.
    area = {s: {n: r[:, 1:].mean(axis=1) for n, r in row.items()} for s, row in recall.items()}
    best = {s: max(names, key=lambda name: float(a[name].mean())) for s, a in area.items()}
    ranks = {name: _mean_rank(area, dict.fromkeys(area, name)) for name in names}
    hindsight = _mean_rank(area, best)
    needed = {s: {n: _needed(r[n], r[BASE], stops) for n in names} for s, r in recall.items()}
    figures = {
        "labels_per_label": list(stops),
        "curves": {
            s: {n: r.mean(axis=0).round(4).tolist() for n, r in row.items()}
            for s, row in recall.items()
        },
        "area": {
            s: {n: round(float(a.mean()), 4) for n, a in row.items()} for s, row in area.items()
        },
        "mean_rank": ranks,
        "mean_rank_of_the_best_of_each_setting_in_hindsight": hindsight,
        "share_of_labels_for_the_final_accuracy_of_random": needed,
    }
    even, tail = (
        max(row[JUDGED] for setting, row in needed.items() if setting.endswith(kind))
        for kind in ("balanced", "zipf")
    )
    worse = sum(_times_above(r[BASE], r[JUDGED]) for r in recall.values())
    headline = (
        f"{JUDGED}: mean rank {ranks[JUDGED]:.1f} of {len(names)} "
        f"({hindsight:.1f}: the best of each setting in hindsight); "
        f"{100 * even:.0f} % of {BASE}'s labels for its final accuracy, "
        f"{100 * tail:.0f} % under Zipf; below {BASE} {worse} times"
    )
    goal_met = ranks[JUDGED] <= RANK and even <= SHARE and tail <= SHARE_LONG_TAIL and not worse
    return Result(figures, headline, goal_met)


def _mean_rank(area: Curves, name: dict[str, str]) -> float:
    """Of a strategy by setting; 1 for the best of a seed, equals share the mean of their ranks."""
    ranks = []
    for setting, row in area.items():
        of_all = stats.rankdata([-areas for areas in row.values()], axis=0)
        ranks.append(of_all[list(row).index(name[setting])])
    return round(float(np.mean(ranks)), 2)


def _times_above(first: Any, second: Any) -> int:
    """At how many budgets the first is better over the same seeds, by a paired t-test."""
    if len(first) < 2:
        return 0
    with np.errstate(invalid="ignore"):  # where both are equal at all seeds there is no p
        test = stats.ttest_rel(first, second, alternative="greater")
    return int((test.pvalue < SIGNIFICANT).sum())


def _needed(recall: Any, base: Any, stops: Sequence[int]) -> float:
    """The share of all labels with which the mean curve first reaches where the base ends."""
    mean, goal = recall.mean(axis=0), float(base.mean(axis=0)[-1])
    steps = stops[: len(mean)]
    reached = np.flatnonzero(mean >= goal - 1e-9)
    if not len(reached):
        return float("inf")
    around = slice(max(0, reached[0] - 1), reached[0] + 1)
    return round(float(np.interp(goal, mean[around], steps[around])) / steps[-1], 3)


if __name__ == "__main__":
    run(
        measure,
        FOLDERS,
        ENCODER,
        option("--head", PLAIN, choices=sorted(heads)),
        option("--seeds", 50, quick=2),
        PROCESSES,
        RESUME,
        peers("scikit-activeml"),
    )
