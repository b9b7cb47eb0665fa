"""Accuracy by the number of labels, for every way to choose them: ours and scikit-activeml's.

The first batch is drawn at random, the same for all; then each strategy chooses batch after batch,
up to 50 labels for each label of the data set or half of the pool, from a balanced pool and from
one whose labels have sizes by Zipf's law, 100 : 1. All are judged by the same head on the same
images: mean recall over labels, so that rare labels count. That head is nearest centroid by cosine,
which peers compute too, or with `--head` another, without peers. Who needs two labels before there
are two takes images at random. Peers run in an environment of their own (`make bench-peers`). Seeds
are shared out to processes of one thread each.

The penalty matrix is that of Ash et al. (2020, section 5, https://arxiv.org/abs/1906.03671): in how
many settings, each counting 1, a strategy (row) is beaten by another (column) by a paired t-test.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.embeddings import DataSet, data_set, digits
from bench.few_shot import PEERS
from bench.harness import ROOT, Kept, arguments, finish
from models.acquisition import Pool, of_labeled
from models.acquisition.strategies import strategies
from models.evaluation.intervals import normal_quantile, skill
from models.heads import FittedHead
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
CONFIDENCE = 0.95


class Setting(NamedTuple):
    """A pool to choose from, and images to judge with."""

    data: DataSet
    kind: str  # "balanced" or "zipf"
    head: str

    @property
    def name(self) -> str:
        return f"{self.data.name}, {self.kind}"


class Known(NamedTuple):
    """What has been labeled so far, and the head that it makes."""

    rows: list[int]  # of the training images
    classes: list[int]  # that have been seen, in order
    targets: Tensor  # (U,), indices into `classes`
    head: FittedHead | None  # None before there are two


class Task(NamedTuple):
    """A pool, drawn by a seed, from which each of some strategies chooses."""

    setting: Setting
    seed: int
    names: list[str]
    stops: Sequence[int]
    peers: Path


class Curve(NamedTuple):
    """Mean recall at each budget, and how long the strategy and the head took."""

    recall: list[float]
    seconds: float


# From rows that may be chosen, what is known, how many and a seed, to the chosen rows.
Chooser = Callable[[Setting, list[int], Known, int, int], list[int]]
Curves = dict[str, dict[str, list[Curve]]]  # by setting, strategy and seed


def main() -> None:
    """Run the benchmark."""
    options = _options()
    sets = [data_set(folder, options.encoder) for folder in options.images or []]
    sets.append(digits(options.encoder))
    settings = [Setting(data, kind, options.head) for data in sets for kind in ("balanced", "zipf")]
    if options.quick:
        settings = settings[-2:]
    names = _names(options.only)
    if not options.peers.exists():
        print(f"scikit-activeml: skipped, {options.peers} is not there; make bench-peers")
    if not options.peers.exists() or options.head != PLAIN:
        names = [name for name in names if not name.startswith(PREFIX)]
    stops, seeds = (QUICK, 2) if options.quick else (PER_LABEL, options.seeds)
    curves = _run(options, settings, names, stops, seeds)
    _finish(options, settings, curves, stops)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=Path, nargs="*", help="class folders, beside digits")
    parser.add_argument("--encoder", default="efficientnet_lite:0")
    parser.add_argument("--head", choices=sorted(heads), default=PLAIN)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--only", nargs="*", help="strategies to run; random is always among them")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--resume", type=Path, help="keep curves here, and go on from those there")
    parser.add_argument("--peers", type=Path, default=PEERS, help="their Python")
    return parser.parse_args()


def _names(only: Sequence[str] | None) -> list[str]:
    ours = [n for n in strategies if not of_labeled(strategies[n]()) and n != "rare_search"]
    every = ours + [f"{PREFIX}{name}" for name in THEIRS]
    return [name for name in every if not only or name in only or name == BASE]


def _run(
    options: argparse.Namespace,
    settings: Sequence[Setting],
    names: Sequence[str],
    stops: Sequence[int],
    seeds: int,
) -> Curves:
    kept = Kept(options.resume)
    found: dict[str, Curve] = {}
    tasks = []
    for seed in range(seeds):
        for setting in settings:
            keys = {name: _key(setting, seed, name) for name in names}
            known = {key: Curve(**told) for key in keys.values() if (told := kept.find(key))}
            found |= known
            left = [name for name, key in keys.items() if key not in known]
            if left:
                tasks.append(Task(setting, seed, left, stops, options.peers))
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for number, (setting, seed, curves) in enumerate(pool.imap_unordered(_work, tasks), 1):
            for name, curve in curves.items():
                key = _key(setting, seed, name)
                found[key] = curve
                kept.keep(key, curve._asdict())
            spent = sum(curve.seconds for curve in curves.values())
            slowest = max(curves, key=lambda name: curves[name].seconds)
            print(
                f"{number}/{len(tasks)} {setting.name}, seed {seed}: {spent:.0f} s, "
                f"{slowest} {curves[slowest].seconds:.0f} s",
                flush=True,
            )
    return {
        s.name: {n: [found[_key(s, seed, n)] for seed in range(seeds)] for n in names}
        for s in settings
    }


def _key(setting: Setting, seed: int, name: str) -> str:
    return f"{setting.head}, {setting.name}, {seed}, {name}"


def _work(task: Task) -> tuple[Setting, int, dict[str, Curve]]:
    """The curves of a pool, in a process of its own."""
    torch.set_num_threads(1)
    setting, seed = task.setting, task.seed
    pool = _pool(setting, seed)
    budgets = _budgets(pool, len(set(setting.data.targets[pool].tolist())), task.stops)
    found = {}
    with _choosers(task) as choosers:
        for name, choose in choosers.items():
            started = time.perf_counter()
            recall = _curve(setting, pool, choose, budgets, seed)
            found[name] = Curve(recall, round(time.perf_counter() - started, 2))
    return setting, seed, found


@contextmanager
def _choosers(task: Task) -> Iterator[dict[str, Chooser]]:
    theirs = [name.removeprefix(PREFIX) for name in task.names if name.startswith(PREFIX)]
    ours: dict[str, Chooser] = {
        n: partial(_choose, n) for n in task.names if not n.startswith(PREFIX)
    }
    if not theirs:
        yield ours
        return
    with _peers(task.peers, theirs) as answering:
        yield ours | answering


def _pool(setting: Setting, seed: int) -> list[int]:
    """Rows of the training images: as many of each label, or fewer and fewer."""
    chance = np.random.default_rng(seed)
    targets = setting.data.targets.numpy()
    labels = np.arange(int(targets.max()) + 1)
    sizes = np.bincount(targets)
    order = np.argsort(-sizes, kind="stable")
    ranks = np.empty(len(labels))
    ranks[order] = np.arange(1, len(labels) + 1)
    power = np.log(LONG_TAIL) / np.log(len(labels))  # falls from 1 to 1 / LONG_TAIL
    wanted = (
        np.full(len(labels), sizes.min())
        if setting.kind == "balanced"
        else np.minimum(sizes, np.maximum(sizes.max() * ranks**-power, 1).round())
    )
    rows: list[int] = []
    for label, size in zip(labels, wanted.astype(int), strict=True):
        rows += chance.choice(np.flatnonzero(targets == label), size, replace=False).tolist()
    return sorted(rows)


def _budgets(pool: list[int], classes: int, stops: Sequence[int]) -> list[int]:
    """Numbers of labels at which to judge: while half of the pool is left."""
    wanted = [stop * classes for stop in stops]
    return [budget for budget in wanted if budget <= max(len(pool) // 2, wanted[1])]


def _curve(
    setting: Setting, pool: list[int], choose: Chooser, budgets: Sequence[int], seed: int
) -> list[float]:
    chance = np.random.default_rng(1000 + seed)
    chosen = chance.choice(pool, budgets[0], replace=False).tolist()
    mean = setting.data.train[pool].double().mean(dim=0).float()
    accuracy = []
    for step, budget in enumerate(budgets):
        left = sorted(set(pool) - set(chosen))
        wanted = budget - len(chosen)
        if wanted:
            known = _known(setting, chosen, mean)
            chosen = chosen + choose(setting, left, known, wanted, 100 * seed + step)
        accuracy.append(_recall(setting, _known(setting, chosen, mean)))
    return accuracy


def _known(setting: Setting, rows: list[int], mean: Tensor) -> Known:
    truth = setting.data.targets[rows]
    classes = sorted(set(truth.tolist()))
    targets = torch.tensor([classes.index(label) for label in truth.tolist()])
    head = None
    if len(classes) > 1:
        options: Any = heads[setting.head]
        embeddings = setting.data.train[rows]
        head = options(centered=True).fit(embeddings, targets, len(classes), mean)
    return Known(rows, classes, targets, head)


def _recall(setting: Setting, known: Known) -> float:
    """Mean recall over all labels; what was never seen is never said."""
    truth = setting.data.test_targets
    said = torch.full_like(truth, known.classes[0])
    if known.head is not None:
        best = known.head.probabilities(setting.data.test.float()).argmax(dim=1)
        said = torch.tensor(known.classes)[best]
    right = (said == truth).double()
    labels = sorted(set(truth.tolist()))
    return float(np.mean([float(right[truth == label].mean()) for label in labels]))


def _choose(
    name: str, setting: Setting, left: list[int], known: Known, budget: int, seed: int
) -> list[int]:
    """One of our strategies; a class that nobody has seen is not known by name."""
    options = {"seed": seed} if name == "random" else {}
    strategy: Any = strategies[name](**options)
    if known.head is None and strategy.needs_classes:
        return _at_random(left, budget, seed)
    head = known.head
    pool = Pool(
        setting.data.train,
        torch.tensor(left),
        head.probabilities if head else None,
        torch.tensor(known.rows),
        known.targets,
        mean=head.mean if head else None,
        skill=partial(_skill, setting, known) if head else None,
        seed=seed,
    )
    return [left[place] for place in strategy.rank(pool, budget).indices.tolist()]


def _at_random(left: list[int], budget: int, seed: int) -> list[int]:
    chosen: list[int] = np.random.default_rng(seed).choice(left, budget, replace=False).tolist()
    return chosen


def _skill(setting: Setting, known: Known) -> float | None:
    assert known.head is not None
    judged = torch.bincount(known.targets)[known.targets] > 1
    if not bool(judged.any()):
        return None
    rows, targets = torch.tensor(known.rows)[judged], known.targets[judged]
    left = known.head.leave_one_out(setting.data.train[rows], targets)
    return skill(left.argmax(dim=1) == targets, targets)


@contextmanager
def _peers(python: Path, names: Sequence[str]) -> Iterator[dict[str, Chooser]]:
    """scikit-activeml's strategies, in a process that answers one question at a time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with subprocess.Popen(
            [python, ROOT / "bench/peers/active.py", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        ) as process:
            assert process.stdin
            assert process.stdout
            yield {
                PREFIX + n: partial(_ask, n, folder, process.stdin, process.stdout) for n in names
            }
            process.stdin.close()


def _ask(
    name: str,
    folder: Path,
    questions: IO[str],
    answers: IO[str],
    setting: Setting,
    left: list[int],
    known: Known,
    budget: int,
    seed: int,
) -> list[int]:
    """One of theirs, on the images as our head sees them."""
    if known.head is None:
        return _at_random(left, budget, seed)
    vectors = setting.data.train[left + known.rows].float()
    assert known.head.mean is not None
    np.savez(
        folder / "question.npz",
        vectors=F.normalize(vectors - known.head.mean, dim=1).numpy(),
        targets=known.targets.numpy(),
        centroids=known.head.centroids.numpy(),
    )
    asked = {
        "strategy": name, "budget": budget, "seed": seed, "temperature": known.head.temperature,
    }  # fmt: skip
    questions.write(json.dumps(asked) + "\n")
    questions.flush()
    return [left[place] for place in json.loads(answers.readline())]


def _finish(
    options: argparse.Namespace, settings: Sequence[Setting], told: Curves, stops: Sequence[int]
) -> None:
    curves = {
        setting: {name: [curve.recall for curve in found] for name, found in row.items()}
        for setting, row in told.items()
    }
    names = list(next(iter(curves.values())))
    area = {
        setting: {name: [_area(c) for c in found[name]] for name in names}
        for setting, found in curves.items()
    }
    ranks = {name: _mean_rank(area, dict.fromkeys(area, name)) for name in names}
    best = {s: max(names, key=lambda name: float(np.mean(a[name]))) for s, a in area.items()}
    hindsight = _mean_rank(area, best)
    penalty = _penalties(curves, names)
    worse = sum(
        _beats(np.array(found[BASE])[:, step], np.array(found[JUDGED])[:, step])
        for found in curves.values()
        if JUDGED in found
        for step in range(len(found[BASE][0]))
    )
    needed = {
        setting: {name: _needed(found[name], found[BASE], stops) for name in names}
        for setting, found in curves.items()
    }
    _print(names, area, ranks, penalty, needed)
    result = {
        "labels_per_label": list(stops),
        "curves": {
            setting: {name: np.mean(found[name], axis=0).round(4).tolist() for name in names}
            for setting, found in curves.items()
        },
        "area": {
            s: {n: round(float(np.mean(v)), 4) for n, v in a.items()} for s, a in area.items()
        },
        "seconds": {
            setting: {n: float(np.median([c.seconds for c in row[n]])) for n in names}
            for setting, row in told.items()
        },
        "mean_rank": ranks,
        "mean_rank_of_the_best_of_each_setting_in_hindsight": hindsight,
        "penalty": {name: dict(zip(names, row, strict=True)) for name, row in penalty.items()},
        "share_of_labels_for_the_final_accuracy_of_random": needed,
    }
    if JUDGED not in names:
        finish(options, result, f"{JUDGED} did not run", False)
        return
    even = [needed[s.name][JUDGED] for s in settings if s.kind == "balanced"]
    tail = [needed[s.name][JUDGED] for s in settings if s.kind == "zipf"]
    headline = (
        f"{JUDGED}: mean rank {ranks[JUDGED]:.1f} of {len(names)} "
        f"({hindsight:.1f}: the best of each setting in hindsight); "
        f"{100 * max(even):.0f} % of {BASE}'s labels for its final accuracy, "
        f"{100 * max(tail):.0f} % under Zipf; below {BASE} {worse} times"
    )
    kept = (
        ranks[JUDGED] <= RANK and max(even) <= SHARE and max(tail) <= SHARE_LONG_TAIL and not worse
    )
    finish(options, result, headline, kept)


def _area(curve: Sequence[float]) -> float:
    """Mean over the batches, whose sizes grow, so that few labels count as much as many."""
    return float(np.mean(curve[1:]))  # the first batch is the same for all


def _mean_rank(area: dict[str, dict[str, list[float]]], name: dict[str, str]) -> float:
    """Of a strategy by setting; 1 for the best of a seed, equals share the mean of their ranks."""
    places = [
        1 + sum(o > own for o in others) + (sum(o == own for o in others) - 1) / 2
        for setting, found in area.items()
        for seed, own in enumerate(found[name[setting]])
        for others in [[values[seed] for values in found.values()]]
    ]
    return round(float(np.mean(places)), 2)


def _penalties(
    curves: dict[str, dict[str, list[list[float]]]], names: Sequence[str]
) -> dict[str, list[float]]:
    """By row how often it is beaten by each column, each setting counting 1."""
    table = {}
    for row in names:
        table[row] = [
            round(
                sum(
                    float(
                        np.mean(
                            [
                                _beats(np.array(found[column])[:, s], np.array(found[row])[:, s])
                                for s in range(1, len(found[row][0]))
                            ]
                        )
                    )
                    for found in curves.values()
                ),
                2,
            )
            for column in names
        ]
    return table


def _beats(first: Any, second: Any) -> bool:
    """Whether the first is better over the same seeds, by a two-sided paired t-test."""
    differences = first - second
    freedom = len(differences) - 1
    spread = float(differences.std(ddof=1)) if freedom else 0.0
    if not spread:
        return False
    z = normal_quantile((1 + CONFIDENCE) / 2)
    # The quantile of t from that of the normal distribution (Abramowitz & Stegun, 26.7.5).
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return bool(float(differences.mean()) / (spread / (freedom + 1) ** 0.5) > t)


def _needed(curves: list[list[float]], base: list[list[float]], stops: Sequence[int]) -> float:
    """The share of all labels with which the mean curve first reaches where the base ends."""
    mean, goal = np.mean(curves, axis=0), float(np.mean(base, axis=0)[-1])
    steps = stops[: len(mean)]
    for place, value in enumerate(mean):
        if value >= goal - 1e-9:
            if not place:
                return steps[0] / steps[-1]
            before = mean[place - 1]
            part = (goal - before) / (value - before) if value > before else 1.0
            return round(
                (steps[place - 1] + part * (steps[place] - steps[place - 1])) / steps[-1], 3
            )
    return float("inf")


def _print(
    names: Sequence[str],
    area: dict[str, dict[str, list[float]]],
    ranks: dict[str, float],
    penalty: dict[str, list[float]],
    needed: dict[str, dict[str, float]],
) -> None:
    """Best first: ranks, areas and labels needed; then who is beaten by whom."""
    order = sorted(names, key=lambda name: ranks[name])
    print(f"\n{'strategy':<28}{'rank':>6}{'lost':>7}" + "".join(f"{s:>24}" for s in area))
    for name in order:
        cells = "".join(
            f"{100 * float(np.mean(area[s][name])):>14.1f} %{100 * needed[s][name]:>6.0f} %"
            for s in area
        )
        lost = sum(penalty[name]) / max(len(names) - 1, 1)
        print(f"{name:<28}{ranks[name]:>6.1f}{lost:>7.2f}{cells}")
    print("rank by area; lost: penalty, mean over the others; mean recall and labels needed\n")


if __name__ == "__main__":
    main()
