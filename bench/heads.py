"""Heads from 1 to 100 shots on the same embeddings: ours, easyfsl's and scikit-learn's.

Accuracy, expected calibration error and processor time to fit and answer, over draws of ways and
shots: as many of each label, and for each label another number by chance. Everyone gets the same
embeddings, centred by the mean of the training images.
"""

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.data import Draw, data_sets, draw_classes
from bench.figures import grouped, mean, progress
from bench.harness import ENCODER, FOLDERS, Options, Result, option, peers, run
from bench.tasks import ask_peer
from models.evaluation.calibration_curve import reliability_curve
from models.heads.kinds import heads

OURS = ("cosine", "mahalanobis", "ridge", "knn", "blend", "auto")
SLOW = "scikit-learn LR, CV"
THEIRS = (
    *(f"easyfsl {name}" for name in ("PrototypicalNetworks", "SimpleShot", "Finetune")),
    *(f"scikit-learn {name}" for name in ("LDA, shrinkage=auto", "ridge", "LR, CV", "kNN, k=5")),
)
EVEN = (1, 2, 5, 10, 20, 50, 100)
UNEVEN = 0  # shots: one of these for each label
BEHIND = 0.3  # points, at most, behind the best peer in any cell
ERROR = 0.03  # calibration error, at most, from 5 shots
JUDGED = "auto"


class Outcome(NamedTuple):
    """What one head made of one draw."""

    hits: Tensor
    confidence: Tensor
    seconds: float  # of a processor, to fit and answer


def measure(options: Options) -> Result:
    """Judge every head on every draw."""
    torch.set_num_threads(1)
    draws = list(_draws(options))
    outcomes = {name: [_ours(name, draw) for draw in progress(draws, name)] for name in OURS}
    if options.peers:
        outcomes |= _peers(options.peers, draws, slow=not options.quick)
    cells: dict[str, dict[str, dict[str, float]]] = {}
    late, behind = [], {}
    for cell, places in grouped((draw.cell, place) for place, draw in enumerate(draws)).items():
        cells[cell] = {name: _cell([every[n] for n in places]) for name, every in outcomes.items()}
        theirs = [row["accuracy"] for name, row in cells[cell].items() if name not in OURS]
        if theirs:
            behind[cell] = max(theirs) - cells[cell][JUDGED]["accuracy"]
        if draws[places[0]].shots >= 5:
            late.append(cells[cell][JUDGED]["pooled_error"])
    error = max(late)
    ahead = mean([of[JUDGED]["accuracy"] - of["cosine"]["accuracy"] for of in cells.values()])
    headline = (
        f"{JUDGED}: {ahead:+.1f} points on cosine; calibration error <= {error:.3f} from 5 shots"
    )
    if behind:
        worst = max(behind, key=lambda cell: behind[cell])
        headline += f"; {behind[worst]:+.1f} points behind the best peer at worst ({worst})"
    goal_met = error <= ERROR and max(behind.values(), default=0.0) <= BEHIND
    return Result({"cells": cells, "behind_best_peer": behind}, headline, goal_met)


def _draws(options: Options) -> Iterator[Draw]:
    all_shots = (1, 5, 20, UNEVEN) if options.quick else (*EVEN, UNEVEN)
    for data in data_sets(options):
        all_ways = {min(ways, len(data.labels)) for ways in ((10,) if options.quick else (5, 10))}
        cases = itertools.product(sorted(all_ways), all_shots, range(options.seeds))
        for ways, shots, seed in cases:
            generator = np.random.default_rng(seed)
            labels = sorted(generator.choice(data.labels, ways, replace=False).tolist())
            each = shots or [int(n) for n in generator.choice(EVEN, ways)]
            cell = f"{data.name}, {ways} ways, {shots or '1 to 100'} shots"
            yield draw_classes(data, cell, each, labels, generator)


def _ours(name: str, draw: Draw) -> Outcome:
    head: Any = heads[name]
    mean, support = draw.data.mean, draw.data.train[draw.support]
    started = time.process_time()
    fitted = head(centered=True).fit(support, draw.targets, int(draw.targets.max()) + 1, mean)
    probabilities = fitted.probabilities(draw.data.test[draw.queries].float())
    return _outcome(probabilities, draw.truth, time.process_time() - started)


def _outcome(probabilities: Tensor, truth: Tensor, seconds: float) -> Outcome:
    confidence, predicted = probabilities.float().max(dim=1)
    return Outcome(predicted == truth, confidence, seconds)


def _peers(python: Path, draws: Sequence[Draw], *, slow: bool) -> dict[str, list[Outcome]]:
    names = [name for name in THEIRS if slow or name != SLOW]
    question, processes = partial(Draw.question, heads=names), os.cpu_count() or 1
    answers = ask_peer(python, "heads", draws, question, processes=processes, threads=1)
    return {
        name: [
            _outcome(torch.from_numpy(answer[name][0]), draw.truth, answer[name][1])
            for draw, answer in zip(draws, answers, strict=True)
        ]
        for name in names
    }


def _cell(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Means over draws; but the calibration error is that of all their answers together.

    That of a few hundred answers is some points even for perfect probabilities.
    """
    hits = torch.cat([outcome.hits for outcome in outcomes])
    confidence = torch.cat([outcome.confidence for outcome in outcomes])
    return {
        "accuracy": round(100 * mean([float(o.hits.double().mean()) for o in outcomes]), 2),
        "pooled_error": round(reliability_curve(confidence, hits).error, 4),
        "cpu_ms": round(1000 * mean([outcome.seconds for outcome in outcomes]), 2),
    }


if __name__ == "__main__":
    seeds = option("--seeds", 20, quick=2)
    run(measure, FOLDERS, ENCODER, seeds, peers("easyfsl, scikit-learn"))
