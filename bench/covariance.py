"""Other rules that the head `mahalanobis` could follow, beside those that it follows.

With uneven shots, 1 to 100 of a label by chance: squared distances as they are, less what the few
shots add to them (Moran and Murphy, which is the head's), and the Student t density of a new image,
its covariance that of an image times (n + 1) / n, n - C degrees of freedom, with as many dimensions
as there are or as the covariance fills. With even shots: shrinkage
towards a sphere, which is the head's, towards the covariance of all images of the project, and
towards that within the labels of the other data sets, each with the strength that is best on the
images judged. Accuracy is the mean over labels.
"""

import itertools
from collections import defaultdict

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.data import DataSet, draw_shots, embedded
from bench.figures import mean_recall, means
from bench.harness import FOLDERS, Options, Result, option, run
from models.heads import center_and_normalize
from models.heads.kinds.mahalanobis import FittedMahalanobis, Mahalanobis
from models.heads.sufficient_statistics import Statistics

ENCODER = "efficientnet_lite:0"
UNEVEN = (1, 2, 5, 20, 100)
EVEN = (1, 2, 5, 10, 20)
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
OURS, PLAIN, SPHERE = "less what few shots add (ours)", "as they are", "sphere (ours)"


def measure(options: Options) -> Result:
    """Compare the rules on every data set."""
    digits, *photos = (embedded(folder, ENCODER) for folder in (None, *options.images))
    within = {data.name: _within(data) for data in [*photos, digits]}
    rows: dict[str, dict[str, float]] = {}
    for data in photos or [digits]:
        covariances = [covariance for name, covariance in within.items() if name != data.name]
        accuracies: dict[str, list[dict[str, float]]] = defaultdict(list)
        for seed in range(options.seeds):
            generator = np.random.default_rng(seed)
            accuracies["uneven shots"].append(_uneven(data, generator))
            for shots in EVEN:
                accuracies[f"{shots} shots"].append(_even(data, shots, generator, covariances))
        rows |= {f"{data.name}, {cell}": _best(rules) for cell, rules in accuracies.items()}
    behind = max(
        max(rules.values()) - rules[OURS if OURS in rules else SPHERE] for rules in rows.values()
    )
    headline = f"the head's own rules are at most {behind:.1f} points behind another"
    return Result({"cells": rows}, headline, behind <= 1.0)


def _best(draws: list[dict[str, float]]) -> dict[str, float]:
    """Means over draws; of a prior only its best strength."""
    best: dict[str, float] = {}
    for rule, accuracy in means(draws, 9).items():
        name = rule.partition(" x")[0]
        best[name] = round(max(best.get(name, 0.0), accuracy), 2)
    return best


def _uneven(data: DataSet, generator: np.random.Generator) -> dict[str, float]:
    labels, dimensions = len(data.labels), data.train.shape[1]
    shots = generator.choice(UNEVEN, labels).tolist()
    rows, targets = draw_shots(data.targets, shots, generator)
    support = data.train[rows]
    ours = Mahalanobis().fit(support, targets, labels, data.mean)
    assert isinstance(ours, FittedMahalanobis)
    plain = Mahalanobis(spread=0.0).fit(support, targets, labels, data.mean)
    scatter, freedom = ours.scatter, len(rows) - labels
    weight, added = scatter.covariance(ours.shrinkage)
    variances = F.pad(weight * scatter.eigenvalues, (0, dimensions - len(scatter.eigenvalues)))
    variances += added
    filled = float(variances.sum() ** 2 / variances.square().sum())
    queries = center_and_normalize(data.test, data.mean)
    distances = scatter.squares(queries, ours.shrinkage)
    wider = (scatter.shots + 1) / scatter.shots
    scores = {
        OURS: ours.scores(data.test),
        PLAIN: plain.scores(data.test),
        "Student t": _student(distances, wider, freedom, dimensions),
        "Student t, filled dimensions": _student(distances, wider, freedom, filled),
    }
    return {rule: _accuracy(data, values) for rule, values in scores.items()}


def _student(distances: Tensor, wider: Tensor, freedom: float, dimensions: float) -> Tensor:
    """Log density but for a constant, of squared distances (Q, C)."""
    tail = torch.log1p(distances / wider / freedom)
    return -(freedom + dimensions) / 2 * tail - dimensions / 2 * wider.log()


def _within(data: DataSet) -> Tensor:
    """The covariance within the labels of a data set, of trace D."""
    centered = center_and_normalize(data.train, data.mean)
    within = Statistics.of(centered, data.targets, len(data.labels)).within
    return within * len(within) / within.trace()


def _even(
    data: DataSet, shots: int, generator: np.random.Generator, covariances: list[Tensor]
) -> dict[str, float]:
    rows, targets = draw_shots(data.targets, shots, generator)
    centered = center_and_normalize(data.train, data.mean).double()
    queries = center_and_normalize(data.test, data.mean).double()
    support = Statistics.of(centered[rows], targets, len(data.labels))
    pool = centered.T @ centered
    sphere = torch.eye(len(pool), dtype=torch.float64)
    priors = {SPHERE: sphere, "half sphere, half pool": sphere + pool * len(pool) / pool.trace()}
    priors["pool"] = pool + 1e-6 * pool.trace() / len(pool) * sphere  # so that it has an inverse
    if covariances:
        others = torch.stack(covariances).mean(dim=0)
        priors["half sphere, half within other labels"] = sphere + others
    # Of one shot each there is no scatter.
    variance = float(support.within.trace()) if shots > 1 else 1.0
    accuracies = {}
    for (name, prior), strength in itertools.product(priors.items(), STRENGTHS):
        unit = prior * len(prior) / prior.trace()
        # The scatter W + k tr(W) / (n - 1) P.
        shrunk = support.within + strength * variance / max(1, len(rows) - 1) * unit
        weights = torch.linalg.solve(shrunk, support.means.T)
        scores = queries @ weights - (support.means.T * weights).sum(dim=0) / 2
        accuracies[f"{name} x {strength}"] = _accuracy(data, scores)
    return accuracies


def _accuracy(data: DataSet, scores: Tensor) -> float:
    """In percent, the mean over labels."""
    return 100 * mean_recall(data.test_targets, scores.argmax(dim=1))


if __name__ == "__main__":
    run(measure, FOLDERS, option("--seeds", 20, quick=2))
