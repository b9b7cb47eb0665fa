"""Heads from 1 to 100 shots on the same embeddings: ours, easyfsl's and scikit-learn's.

Accuracy, expected calibration error and processor time to fit and answer, over draws of ways and
shots: as many of each label, and for each label another number by chance. Everyone gets the same
embeddings, centred by the mean of the training images. Peers run in an environment of their own
(`make bench-peers`).
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.embeddings import DataSet, data_set, digits, draw_shots
from bench.few_shot import PEERS
from bench.harness import ROOT, arguments, finish
from models.heads.calibration import expected_calibration_error
from models.heads.kinds import heads

OURS = ("cosine", "mahalanobis", "ridge", "knn", "blend", "auto")
EVEN = (1, 2, 5, 10, 20, 50, 100)
UNEVEN = 0  # shots: one of these for each label
BEHIND = 0.3  # points, at most, behind the best peer in any cell
ERROR = 0.03  # calibration error, at most, from 5 shots
JUDGED = "auto"


class Draw(NamedTuple):
    """Rows of the training images to learn from and of the test images to judge with."""

    data: int
    shots: int
    ways: int
    support: list[int]
    targets: list[int]
    queries: list[int]
    truth: list[int]


class Outcome(NamedTuple):
    """What one head made of one draw."""

    right: float  # share
    error: float  # expected calibration error of this draw alone
    seconds: float  # of a processor, to fit and answer
    confidences: list[float]
    hits: list[bool]


def main() -> None:
    """Run the benchmark."""
    options = _options()
    torch.set_num_threads(1)
    sets = [data_set(folder, options.encoder) for folder in options.images]
    sets.append(digits(options.encoder))
    shots = (1, 5, 20, UNEVEN) if options.quick else (*EVEN, UNEVEN)
    draws = list(
        _draws(
            sets, shots, (10,) if options.quick else (5, 10), 2 if options.quick else options.seeds
        )
    )
    found: dict[str, list[Outcome]] = {name: [] for name in OURS}
    for number, one in enumerate(draws):
        for name in OURS:
            found[name].append(_ours(name, sets[one.data], one))
        if number % 20 == 19:
            print(f"{number + 1}/{len(draws)} draws", flush=True)
    if options.peers.exists():
        found |= _peers(options.peers, sets, draws, options.quick)
    else:
        print(f"easyfsl, scikit-learn: skipped, {options.peers} is not there; make bench-peers")
    _finish(options, sets, draws, found)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="class folders")
    parser.add_argument("--encoder", default="efficientnet_lite:0")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--peers", type=Path, default=PEERS, help="their Python")
    return parser.parse_args()


def _draws(
    sets: Sequence[DataSet], shots: Sequence[int], ways: Sequence[int], seeds: int
) -> Iterator[Draw]:
    for number, data in enumerate(sets):
        labels = sorted(set(data.targets.tolist()))
        for way in sorted({min(one, len(labels)) for one in ways}):
            for shot in shots:
                for seed in range(seeds):
                    yield _draw(number, data, shot, way, seed)


def _draw(number: int, data: DataSet, shots: int, ways: int, seed: int) -> Draw:
    chance = np.random.default_rng(seed)
    labels = sorted(set(data.targets.tolist()))
    chosen = sorted(chance.choice(labels, ways, replace=False).tolist())
    each = shots if shots != UNEVEN else [int(n) for n in chance.choice(EVEN, ways)]
    support, targets = draw_shots(data, chosen, each, chance)
    queries = [i for i, label in enumerate(data.test_targets.tolist()) if label in chosen]
    truth = [chosen.index(int(data.test_targets[i])) for i in queries]
    return Draw(number, shots, ways, support, targets, queries, truth)


def _ours(name: str, data: DataSet, one: Draw) -> Outcome:
    head: Any = heads[name]
    mean = data.train.double().mean(dim=0).float()
    support, targets = data.train[one.support], torch.tensor(one.targets)
    started = time.process_time()
    fitted = head(centered=True).fit(support, targets, one.ways, mean)
    probabilities = fitted.probabilities(data.test[one.queries].float())
    return _outcome(probabilities, one.truth, time.process_time() - started)


def _outcome(probabilities: Tensor, truth: Sequence[int], seconds: float) -> Outcome:
    targets = torch.tensor(truth)
    confidence, predicted = probabilities.max(dim=1)
    hits = predicted == targets
    return Outcome(
        float(hits.double().mean()),
        expected_calibration_error(probabilities.float(), targets),
        seconds,
        confidence.tolist(),
        hits.tolist(),
    )


def _peers(
    python: Path, sets: Sequence[DataSet], draws: Sequence[Draw], quick: bool
) -> dict[str, list[Outcome]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, data in enumerate(sets):
            mean = data.train.double().mean(dim=0).float()
            placed = [F.normalize(x.float() - mean, dim=1) for x in (data.train, data.test)]
            np.savez(folder / f"{number}.npz", train=placed[0].numpy(), test=placed[1].numpy())
        (folder / "draws.json").write_text(json.dumps([one._asdict() for one in draws]))
        script, of = ROOT / "bench/peers/many_heads.py", os.cpu_count() or 1
        command = [python, script, folder, "quick" if quick else "full"]
        alone = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        running = [
            subprocess.Popen([*command, str(share), str(of)], env=alone) for share in range(of)
        ]
        ended = [process.wait() for process in running]
        if any(ended):
            raise RuntimeError("a process of the peers failed")
        found: dict[str, list[Outcome]] = {}
        for n, one in enumerate(draws):
            answers = np.load(folder / f"answers-{n % of}.npz")
            times = json.loads((folder / f"times-{n % of}.json").read_text())
            for name, seconds in times.items():
                said = torch.from_numpy(answers[f"{name}/{n}"])
                found.setdefault(name, []).append(_outcome(said, one.truth, seconds[str(n)]))
        return found


def _finish(
    options: argparse.Namespace,
    sets: Sequence[DataSet],
    draws: Sequence[Draw],
    found: dict[str, list[Outcome]],
) -> None:
    cells: dict[str, dict[str, dict[str, float]]] = {}
    for place in dict.fromkeys((one.data, one.ways, one.shots) for one in draws):
        rows = [n for n, one in enumerate(draws) if (one.data, one.ways, one.shots) == place]
        shots = "1 to 100" if place[2] == UNEVEN else place[2]
        cell = f"{sets[place[0]].name}, {place[1]} ways, {shots} shots"
        cells[cell] = {name: _cell([all_[n] for n in rows]) for name, all_ in found.items()}
        print(f"\n{cell:<36}{'accuracy %':>12}{'ECE':>8}{'pooled':>8}{'ms':>10}")
        for name, cell_of in cells[cell].items():
            print(
                f"  {name:<34}{cell_of['accuracy']:>12.1f}{cell_of['error']:>8.3f}"
                f"{cell_of['pooled_error']:>8.3f}{cell_of['cpu_ms']:>10.1f}"
            )
    peers = [name for name in found if name not in OURS]
    behind = {
        cell: max(of[peer]["accuracy"] for peer in peers) - of[JUDGED]["accuracy"]
        for cell, of in cells.items()
        if peers
    }
    late = [cell for cell, one in zip(cells, _shots(draws), strict=True) if one >= 5]
    error = max(cells[cell][JUDGED]["pooled_error"] for cell in late)
    ahead = _mean([of[JUDGED]["accuracy"] - of["cosine"]["accuracy"] for of in cells.values()])
    headline = (
        f"{JUDGED}: {ahead:+.1f} points on cosine; calibration error <= {error:.3f} from 5 shots"
    )
    if behind:
        worst = max(behind, key=lambda cell: behind[cell])
        headline += f"; {behind[worst]:+.1f} points behind the best peer at worst ({worst})"
    kept = error <= ERROR and max(behind.values(), default=0.0) <= BEHIND
    finish(options, {"cells": cells, "behind_best_peer": behind}, headline, kept)


def _shots(draws: Sequence[Draw]) -> list[int]:
    places = dict.fromkeys((one.data, one.ways, one.shots) for one in draws)
    return [shots for _, _, shots in places]


def _cell(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Means over draws; the pooled error is that of all their answers together.

    The error of a few hundred answers is some points even for perfect probabilities; that of many
    draws together shows what is systematic.
    """
    confidence = torch.tensor([c for one in outcomes for c in one.confidences])
    hits = torch.tensor([h for one in outcomes for h in one.hits])
    both = torch.stack([confidence, torch.zeros_like(confidence)], dim=1)
    return {
        "accuracy": round(100 * _mean([one.right for one in outcomes]), 2),
        "error": round(_mean([one.error for one in outcomes]), 4),
        "pooled_error": round(expected_calibration_error(both, (~hits).long()), 4),
        "cpu_ms": round(1000 * _mean([one.seconds for one in outcomes]), 2),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
