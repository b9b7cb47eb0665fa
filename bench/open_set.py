"""Unknown images told, and sets that contain the label, with classes left out.

Some classes of each data set get no label. Judged on test images of all classes: the area under
the ROC curve of scores of being unknown, beside scikit-learn's; how many known images are called
unknown, beside the rate that was asked for; how many unknown ones are caught, beside the estimate;
and how often sets contain the label, and how large they are. Everyone gets the same embeddings,
centred by the mean of the training images of all classes, as of a pool that has images of the
classes without label too. Peers run in an environment of their own (`make bench-peers`).
"""

import argparse
import json
import subprocess
import tempfile
from collections import defaultdict
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
from models.heads.kinds import heads
from models.rejection import conformal, open_set

HEAD = "auto"
SHOTS = (2, 5, 20, 100)
KNOWN = 0.7  # of the classes
RATES = (0.05, 0.1)
COVERAGES = (0.8, 0.9, 0.95)
TOLERANCE = 2.0  # points beside what was asked for, from 5 shots
BEHIND = 0.5  # points of area, at most, behind the best peer on average


class Draw(NamedTuple):
    """Rows of the training images to learn from, and the class of each test image."""

    data: int
    shots: int
    support: list[int]
    targets: list[int]
    truth: list[int]  # -1: of a class that was left out


def main() -> None:
    """Run the benchmark."""
    options = _options()
    torch.set_num_threads(1)
    sets = [digits(options.encoder), *(data_set(one, options.encoder) for one in options.images)]
    shots = (5, 20) if options.quick else SHOTS
    draws = list(_draws(sets, shots, 2 if options.quick else options.seeds))
    found = []
    for number, one in enumerate(draws):
        found.append(_ours(sets[one.data], one))
        if number % 20 == 19:
            print(f"{number + 1}/{len(draws)} draws", flush=True)
    peers: list[str] = []
    if options.peers.exists():
        for figures, scores, one in zip(
            found, _peers(options.peers, sets, draws), draws, strict=True
        ):
            peers = list(scores)
            figures |= {f"area: {name}": area(s, _unseen(one)) for name, s in scores.items()}
    else:
        print(f"scikit-learn: skipped, since {options.peers} is not there; make bench-peers")
    _finish(options, sets, draws, found, peers)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument(
        "--images", type=Path, nargs="*", default=[], help="folders of class folders, beside digits"
    )
    parser.add_argument("--encoder", default="efficientnet_lite:0")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--peers", type=Path, default=PEERS, help="their Python")
    return parser.parse_args()


def _draws(sets: Sequence[DataSet], shots: Sequence[int], seeds: int) -> Iterator[Draw]:
    for number, data in enumerate(sets):
        for shot in shots:
            for seed in range(seeds):
                yield _draw(number, data, shot, seed)


def _draw(number: int, data: DataSet, shots: int, seed: int) -> Draw:
    chance = np.random.default_rng(seed)
    labels = chance.permutation(sorted(set(data.targets.tolist()))).tolist()
    known = labels[: round(KNOWN * len(labels))]
    support, targets = draw_shots(data, known, shots, chance)
    truth = [known.index(one) if one in known else -1 for one in data.test_targets.tolist()]
    return Draw(number, shots, support, targets, truth)


def _unseen(one: Draw) -> Tensor:
    return torch.tensor(one.truth) < 0


def _ours(data: DataSet, one: Draw) -> dict[str, float]:
    mean = data.train.double().mean(dim=0).float()
    support, targets = data.train[one.support], torch.tensor(one.targets)
    queries, truth, unseen = data.test.float(), torch.tensor(one.truth), _unseen(one)
    classes = int(targets.max()) + 1
    kind: Any = heads[HEAD]
    head = kind(centered=True).fit(support, targets, classes, mean)
    probabilities = head.probabilities(queries)
    detector = open_set.fit(support, targets, classes, mean)
    scores = detector.scores(queries)
    parts = {type(part.measure).__name__: part.measure for part in detector.detector.parts}
    placed = F.normalize(queries - mean, dim=1)
    seen = torch.isin(data.targets, data.targets[one.support])
    without = open_set.fit(support, targets, classes, data.train[seen].double().mean(dim=0).float())
    figures = {
        "area: handful": area(scores, unseen),
        "area: handful, no unseen class in the pool": area(without.scores(queries), unseen),
        **{f"area: {name} alone": area(m.scores(placed), unseen) for name, m in parts.items()},
        f"area: {HEAD}, max softmax": area(1 - probabilities.max(dim=1).values, unseen),
        "accuracy": 100 * _share(probabilities[~unseen].argmax(dim=1) == truth[~unseen]),
    }
    for rate in RATES:
        try:
            rejection = detector.rejection(rate)
        except open_set.TooFewToReject:
            continue
        rejected = scores > rejection.threshold
        figures |= {
            f"rejected at {rate}": 100 * _share(rejected[~unseen]),
            f"caught at {rate}": 100 * _share(rejected[unseen]),
        }
        if rejection.caught is not None:
            figures[f"caught at {rate}, estimated"] = 100 * rejection.caught
    sets = conformal.fit(head, support, targets)
    for coverage in COVERAGES:
        members = sets.contains(probabilities[~unseen], coverage)
        covered = members.gather(1, truth[~unseen, None])
        figures |= {
            f"covered at {coverage}": 100 * _share(covered),
            f"labels in sets of {coverage}": float(members.sum(dim=1).double().mean()),
        }
    return figures


def area(scores: Tensor, unseen: Tensor) -> float:
    """Under the ROC curve, in points: how often an unknown image scores above a known one."""
    known = scores[~unseen].double().sort().values
    below = torch.searchsorted(known, scores[unseen].double())
    upto = torch.searchsorted(known, scores[unseen].double(), right=True)
    return float(100 * (below + upto).double().mean() / 2 / len(known))


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())


def _peers(
    python: Path, sets: Sequence[DataSet], draws: Sequence[Draw]
) -> Iterator[dict[str, Tensor]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, data in enumerate(sets):
            mean = data.train.double().mean(dim=0).float()
            placed = [F.normalize(x.float() - mean, dim=1) for x in (data.train, data.test)]
            np.savez(folder / f"{number}.npz", train=placed[0].numpy(), test=placed[1].numpy())
        (folder / "draws.json").write_text(json.dumps([one._asdict() for one in draws]))
        subprocess.run([python, ROOT / "bench/peers/open_set.py", folder], check=True)
        answers = np.load(folder / "answers.npz")
        names = list(dict.fromkeys(key.rpartition("/")[0] for key in answers.files))
        for number in range(len(draws)):
            yield {name: torch.from_numpy(answers[f"{name}/{number}"]) for name in names}


def _finish(
    options: argparse.Namespace,
    sets: Sequence[DataSet],
    draws: Sequence[Draw],
    found: Sequence[dict[str, float]],
    peers: Sequence[str],
) -> None:
    cells: dict[str, dict[str, float]] = {}
    for place in dict.fromkeys((one.data, one.shots) for one in draws):
        rows = [f for f, one in zip(found, draws, strict=True) if (one.data, one.shots) == place]
        cell = f"{sets[place[0]].name}, {place[1]} shots"
        cells[cell] = _means(rows)
        print(cell, *(f"\n    {name:<48}{value:.1f}" for name, value in cells[cell].items()))
    every = _means(list(found))
    late = _means([f for f, one in zip(found, draws, strict=True) if one.shots >= 5])
    headline = (
        f"unknown images: area {every['area: handful']:.1f}, max softmax "
        f"{every[f'area: {HEAD}, max softmax']:.1f}"
    )
    kept = all(late[f"rejected at {rate}"] <= 100 * rate + TOLERANCE for rate in RATES)
    kept &= all(late[f"covered at {one}"] >= 100 * one - TOLERANCE for one in COVERAGES)
    if peers:
        best = max(peers, key=lambda name: every[f"area: {name}"])
        headline += f", best of scikit-learn {every[f'area: {best}']:.1f} ({best})"
        kept &= every["area: handful"] >= every[f"area: {best}"] - BEHIND
    headline += (
        f"; from 5 shots {late['rejected at 0.1']:.1f} % of known images rejected where 10 % may "
        f"be, and sets of 90 % right in {late['covered at 0.9']:.1f} %, with "
        f"{late['labels in sets of 0.9']:.1f} labels"
    )
    finish(options, {"open_set": cells}, headline, kept)


def _means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each figure, over the draws that have it."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            found[name].append(value)
    return {name: round(sum(values) / len(values), 2) for name, values in found.items()}


if __name__ == "__main__":
    main()
