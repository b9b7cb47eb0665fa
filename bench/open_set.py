"""Unknown images told, and sets that contain the label, with classes left out.

Some classes of each data set get no label. Judged on test images of all classes: the area under
the ROC curve of scores of being unknown, beside scikit-learn's; how many known images are called
unknown, beside the rate that was asked for; how many unknown ones are caught, beside the estimate;
and how often sets contain the label, and how large they are. Everyone gets the same embeddings,
centred by the mean of the training images of all classes, as of a pool that has images of the
classes without label too.
"""

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from bench.data import Draw, data_sets, draw_classes
from bench.figures import grouped, means, progress
from bench.harness import ENCODER, FOLDERS, Options, Result, option, peers, run
from bench.tasks import ask_peer
from models.heads.kinds import heads
from models.rejection.conformal import fit as fit_sets
from models.rejection.open_set import TooFewToReject
from models.rejection.open_set import fit as fit_detector

HEAD = "auto"
THEIRS = [
    f"scikit-learn {name}"
    for name in ("LocalOutlierFactor", "OneClassSVM", "LedoitWolf, Mahalanobis", "LR, max softmax")
]
SHOTS = (2, 5, 20, 100)
WITH_LABEL = 0.7  # of the classes
RATES = (0.05, 0.1)
COVERAGES = (0.8, 0.9, 0.95)
TOLERANCE = 2.0  # points beside what was asked for, from 5 shots
BEHIND = 0.5  # points of area, at most, behind the best peer on average


def measure(options: Options) -> Result:
    """Judge every draw, and ask the peers about the same."""
    torch.set_num_threads(1)
    draws = list(_draws(options))
    figures = [_ours(draw) for draw in progress(draws, "draws")]
    if options.peers:
        answers = ask_peer(options.peers, "heads", draws, partial(Draw.question, heads=THEIRS))
        for row, draw, answer in zip(figures, draws, answers, strict=True):
            for name in THEIRS:
                row[f"area: {name}"] = area(answer[name][0], draw.truth < 0)
    by_cell = grouped((draw.cell, row) for draw, row in zip(draws, figures, strict=True))
    cells = {cell: means(rows, 2) for cell, rows in by_cell.items()}
    every = means(figures, 2)
    late = means([row for row, draw in zip(figures, draws, strict=True) if draw.shots >= 5], 2)
    headline = (
        f"unknown images: area {every['area: handful']:.1f}, max softmax "
        f"{every[f'area: {HEAD}, max softmax']:.1f}"
    )
    goal_met = all(late[f"rejected at {rate}"] <= 100 * rate + TOLERANCE for rate in RATES)
    goal_met &= all(late[f"covered at {share}"] >= 100 * share - TOLERANCE for share in COVERAGES)
    if options.peers:
        best = max(THEIRS, key=lambda name: every[f"area: {name}"])
        headline += f", best of scikit-learn {every[f'area: {best}']:.1f} ({best})"
        goal_met &= every["area: handful"] >= every[f"area: {best}"] - BEHIND
    headline += (
        f"; from 5 shots {late['rejected at 0.1']:.1f} % of known images rejected where 10 % may "
        f"be, and sets of 90 % right in {late['covered at 0.9']:.1f} %, with "
        f"{late['labels in sets of 0.9']:.1f} labels"
    )
    return Result({"open_set": cells}, headline, goal_met)


def _draws(options: Options) -> Iterator[Draw]:
    all_shots = (5, 20) if options.quick else SHOTS
    seeds = range(options.seeds)
    for data, shots, seed in itertools.product(data_sets(options), all_shots, seeds):
        generator = np.random.default_rng(seed)
        labels = generator.permutation(data.labels).tolist()
        labels = labels[: round(WITH_LABEL * len(labels))]
        cell = f"{data.name}, {shots} shots"
        yield draw_classes(data, cell, shots, labels, generator, all_queries=True)


def _ours(draw: Draw) -> dict[str, float]:
    data, targets, truth, unseen = draw.data, draw.targets, draw.truth, draw.truth < 0
    support, queries, mean = data.train[draw.support], data.test.float(), data.mean
    classes = int(targets.max()) + 1
    kind: Any = heads[HEAD]
    head = kind(centered=True).fit(support, targets, classes, mean)
    probabilities = head.probabilities(queries)
    detector = fit_detector(support, targets, classes, mean)
    scores = detector.scores(queries)
    in_pool = torch.isin(data.targets, data.targets[draw.support])
    pool_mean = data.train[in_pool].double().mean(dim=0).float()
    without = fit_detector(support, targets, classes, pool_mean)
    figures = {
        "area: handful": area(scores, unseen),
        "area: handful, no unseen class in the pool": area(without.scores(queries), unseen),
        f"area: {HEAD}, max softmax": area(1 - probabilities.max(dim=1).values, unseen),
        "accuracy": _percent(probabilities[~unseen].argmax(dim=1) == truth[~unseen]),
    }
    for rate in RATES:
        try:
            rejection = detector.rejection(rate)
        except TooFewToReject:
            continue
        rejected = scores > rejection.threshold
        figures |= {
            f"rejected at {rate}": _percent(rejected[~unseen]),
            f"caught at {rate}": _percent(rejected[unseen]),
        }
        if rejection.caught is not None:
            figures[f"caught at {rate}, estimated"] = 100 * rejection.caught
    sets = fit_sets(head, support, targets)
    for coverage in COVERAGES:
        members = sets.contains(probabilities[~unseen], coverage)
        figures |= {
            f"covered at {coverage}": _percent(members.gather(1, truth[~unseen, None])),
            f"labels in sets of {coverage}": float(members.sum(dim=1).double().mean()),
        }
    return figures


def area(scores: Any, unseen: Tensor) -> float:
    """Under the ROC curve, in points: how often an unknown image scores above a known one."""
    return 100 * float(roc_auc_score(unseen, scores))


def _percent(hits: Tensor) -> float:
    return 100 * float(hits.double().mean())


if __name__ == "__main__":
    run(measure, FOLDERS, ENCODER, option("--seeds", 20, quick=2), peers("scikit-learn"))
