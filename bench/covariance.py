"""Other rules that the head `mahalanobis` could follow, beside those that it follows.

With uneven shots, 1 to 100 of a label by chance: squared distances as they are, less what the few
shots add to them (Moran and Murphy, which is the head's), and the Student t density of a new image,
its covariance that of an image times (n + 1) / n, n - C degrees of freedom, with as many dimensions
as there are or as the covariance fills. With even shots: shrinkage
towards a sphere, which is the head's, towards the covariance of all images of the project, and
towards that within the labels of the other data sets, each with the strength that is best on the
images judged. Accuracy is the mean over labels.
"""

import argparse
import itertools
import statistics
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.embeddings import DataSet, data_set, digits, draw_shots
from bench.harness import arguments, finish
from models.heads import center_and_normalize
from models.heads.kinds.mahalanobis import FittedMahalanobis, Mahalanobis

ENCODER = "efficientnet_lite:0"
UNEVEN = (1, 2, 5, 20, 100)
EVEN = (1, 2, 5, 10, 20)
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
OURS, PLAIN, SPHERE = "less what few shots add (ours)", "as they are", "sphere (ours)"


class Draw(NamedTuple):
    """Support images and class means, float64, and the images to judge; all placed."""

    shots: Tensor  # (C,)
    means: Tensor  # (C, D)
    within: Tensor  # (D, D), the scatter
    images: int
    queries: Tensor  # (Q, D)


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=Path, nargs="*", default=[], help="folders of photos")
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    seeds = 2 if options.quick else options.seeds
    photos = [data_set(folder, ENCODER) for folder in options.images]
    sets = photos or [digits(ENCODER)]
    within = {data.name: _within(data) for data in [*photos, digits(ENCODER)]}
    rows: dict[str, dict[str, float]] = {}
    for data in sets:
        mean = data.train.double().mean(dim=0).float()
        others = [scatter for name, scatter in within.items() if name != data.name]
        found: dict[str, dict[str, list[float]]] = {}
        for seed in range(seeds):
            chance = np.random.default_rng(seed)
            _gather(found, "uneven shots", _uneven(data, mean, chance))
            for shots in EVEN:
                _gather(found, f"{shots} shots", _even(data, mean, shots, chance, others))
        rows |= {f"{data.name}, {cell}": _means(rules) for cell, rules in found.items()}
    _report(options, rows)


def _gather(
    found: dict[str, dict[str, list[float]]], cell: str, accuracies: dict[str, float]
) -> None:
    for rule, accuracy in accuracies.items():
        found.setdefault(cell, {}).setdefault(rule, []).append(accuracy)


def _means(rules: dict[str, list[float]]) -> dict[str, float]:
    """Over draws; of a prior only its best strength."""
    means = {rule: statistics.mean(found) for rule, found in rules.items()}
    best: dict[str, float] = {}
    for rule, accuracy in means.items():
        name = rule.partition(" x")[0]
        best[name] = max(best.get(name, 0.0), accuracy)
    return {name: round(accuracy, 2) for name, accuracy in best.items()}


def _uneven(data: DataSet, mean: Tensor, chance: np.random.Generator) -> dict[str, float]:
    labels = range(int(data.targets.max()) + 1)
    rows, targets = [], []
    for label in labels:
        found, _ = draw_shots(data, [label], int(chance.choice(UNEVEN)), chance)
        rows += found
        targets += [label] * len(found)
    support, classes = data.train[rows], torch.tensor(targets)
    ours = Mahalanobis().fit(support, classes, len(labels), mean)
    assert isinstance(ours, FittedMahalanobis)
    plain = Mahalanobis(spread=0.0).fit(support, classes, len(labels), mean)
    draw = _draw(data, mean, rows, classes)
    freedom = draw.images - len(labels)
    covariance = _shrunk(draw, ours.shrinkage) / freedom
    dimensions = len(covariance)
    filled = float(covariance.trace() ** 2 / covariance.square().sum())
    factor = torch.linalg.cholesky(covariance)
    apart = torch.cdist(*(torch.linalg.solve_triangular(factor, x.T, upper=False).T.contiguous()
                          for x in (draw.queries, draw.means))).square()  # fmt: skip
    wider = (draw.shots + 1) / draw.shots
    scores = {
        OURS: ours.scores(data.test),
        PLAIN: plain.scores(data.test),
        "Student t": _student(apart, wider, freedom, dimensions),
        "Student t, filled dimensions": _student(apart, wider, freedom, filled),
    }
    return {rule: _accuracy(data, found) for rule, found in scores.items()}


def _student(apart: Tensor, wider: Tensor, freedom: float, dimensions: float) -> Tensor:
    """Log density but for a constant, of squared distances (Q, C)."""
    tail = torch.log1p(apart / wider / freedom)
    return -(freedom + dimensions) / 2 * tail - dimensions / 2 * wider.log()


def _within(data: DataSet) -> Tensor:
    """The covariance within the labels of a data set, of trace D."""
    draw = _draw(
        data, data.train.double().mean(dim=0).float(), [*range(len(data.train))], data.targets
    )
    return draw.within * len(draw.within) / draw.within.trace()


def _even(
    data: DataSet, mean: Tensor, shots: int, chance: np.random.Generator, others: list[Tensor]
) -> dict[str, float]:
    labels = list(range(int(data.targets.max()) + 1))
    rows, targets = draw_shots(data, labels, shots, chance)
    draw = _draw(data, mean, rows, torch.tensor(targets))
    placed = center_and_normalize(data.train, mean).double()
    pool = placed.T @ placed
    sphere = torch.eye(len(pool), dtype=torch.float64)
    priors = {SPHERE: sphere, "half sphere, half pool": sphere + pool * len(pool) / pool.trace()}
    priors["pool"] = pool + 1e-6 * pool.trace() / len(pool) * sphere  # so that it has an inverse
    if others:
        priors["half sphere, half within other labels"] = sphere + sum(others) / len(others)
    found = {}
    for (name, prior), strength in itertools.product(priors.items(), STRENGTHS):
        unit = prior * len(prior) / prior.trace()
        weights = torch.linalg.solve(_shrunk(draw, strength, unit), draw.means.T)
        scores = draw.queries @ weights - (draw.means.T * weights).sum(dim=0) / 2
        found[f"{name} x {strength}"] = _accuracy(data, scores)
    return found


def _draw(data: DataSet, mean: Tensor, rows: list[int], targets: Tensor) -> Draw:
    placed = center_and_normalize(data.train[rows], mean).double()
    shots = torch.bincount(targets).double()
    means = torch.zeros(len(shots), placed.shape[1], dtype=torch.float64)
    means = means.index_add_(0, targets, placed) / shots[:, None]
    apart = placed - means[targets]
    return Draw(
        shots, means, apart.T @ apart, len(rows), center_and_normalize(data.test, mean).double()
    )


def _shrunk(draw: Draw, strength: float, prior: Tensor | None = None) -> Tensor:
    """The scatter W + k tr(W) / (n - 1) P, where P is the identity if None."""
    unit = torch.eye(len(draw.within), dtype=torch.float64) if prior is None else prior
    variance = float(draw.within.trace()) or 1.0  # of one shot each there is none
    return draw.within + strength * variance / max(1, draw.images - 1) * unit


def _accuracy(data: DataSet, scores: Tensor) -> float:
    """In percent, the mean over labels."""
    right = (scores.argmax(dim=1) == data.test_targets).double()
    counts = torch.bincount(data.test_targets).double()
    each = torch.zeros_like(counts).index_add_(0, data.test_targets, right) / counts
    return 100 * float(each[counts > 0].mean())


def _report(options: argparse.Namespace, rows: dict[str, dict[str, float]]) -> None:
    behind: list[float] = []
    for cell, rules in rows.items():
        print(f"\n{cell}: accuracy, mean over labels and draws, %")
        for rule, accuracy in rules.items():
            print(f"  {rule:<36}{accuracy:>8.1f}")
        own = next(rule for rule in (OURS, SPHERE) if rule in rules)
        behind.append(max(rules.values()) - rules[own])
    headline = f"the head's own rules are at most {max(behind):.1f} points behind another"
    finish(options, {"cells": rows}, headline, kept=max(behind) <= 1.0)


if __name__ == "__main__":
    main()
