"""Likely label errors found, beside cleanlab.

Some labels are set to another class at random. Both sides score all labels: ours by leave-one-out
of the head, cleanlab by the recipe of its documentation, probabilities of a logistic regression by
five-fold cross-validation. cleanlab's scores of our probabilities show which part of a difference
is the head's.
"""

import time
from pathlib import Path

import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from bench.data import data_sets
from bench.figures import means
from bench.harness import ENCODER, FOLDERS, Options, Result, option, peers, run
from bench.tasks import ask_peer
from models.evaluation.label_errors import label_errors, label_quality
from models.heads.kinds.auto import Auto

NOISE = (0.05, 0.1)
TOLERANCE = 1.0  # points of the area under the precision-recall curve
FASTER = 20.0
QUICK = 600  # images


def measure(options: Options) -> Result:
    """Spoil labels of each data set by each share, and look for them."""
    torch.set_num_threads(1)
    table: dict[str, dict[str, float]] = {}
    for data in data_sets(options):
        shuffled = torch.randperm(len(data.targets), generator=torch.Generator().manual_seed(0))
        rows = shuffled[: QUICK if options.quick else None]
        for noise in NOISE[:1] if options.quick else NOISE:
            runs = [
                _run(data.train[rows], data.targets[rows], noise, seed, options.peers)
                for seed in range(options.repeats)
            ]
            table[f"{data.name}, {100 * noise:.0f} % wrong"] = means(runs, 4)
    mean = means(list(table.values()), 9)
    headline = f"wrong labels found: area {mean['handful: area']:.3f}"
    goal_met = True
    if options.peers:
        faster = mean["cleanlab: seconds"] / mean["handful: seconds"]
        headline += (
            f", cleanlab {mean['cleanlab: area']:.3f} and {faster:.0f} x slower; given our "
            f"probabilities cleanlab has {mean['cleanlab on ours: area']:.3f}"
        )
        behind = 100 * (mean["cleanlab: area"] - mean["handful: area"])
        goal_met = behind <= TOLERANCE and faster >= FASTER
    return Result({"label_errors": table}, headline, goal_met)


def _run(
    vectors: Tensor, truth: Tensor, noise: float, seed: int, peers: Path | None
) -> dict[str, float]:
    """The figures of one draw of wrong labels."""
    generator = torch.Generator().manual_seed(seed)
    classes = int(truth.max()) + 1
    wrong = torch.rand(len(truth), generator=generator) < noise
    shift = torch.randint(1, classes, truth.shape, generator=generator)
    targets = torch.where(wrong, (truth + shift) % classes, truth)
    started = time.perf_counter()
    head = Auto().fit(vectors.float(), targets, classes, vectors.float().mean(dim=0))
    probabilities = head.leave_one_out(vectors.float(), targets).softmax(dim=1)
    quality = label_quality(probabilities, targets)
    errors = label_errors(probabilities, targets)
    seconds = time.perf_counter() - started
    figures = {
        "handful: area": average_precision_score(wrong, -quality),
        "handful: seconds": seconds,
        "handful: listed": float(len(errors.rows)),
        "handful: of these wrong": float(wrong[errors.rows].float().mean()),
    }
    if peers is None:
        return figures
    question = {
        "vectors": vectors.float().numpy(),
        "targets": targets.numpy(),
        "probabilities": probabilities.numpy(),
    }
    (theirs,) = ask_peer(peers, "cleanlab_errors", [question])
    for name in ("cleanlab", "cleanlab on ours"):
        figures[f"{name}: area"] = average_precision_score(wrong, -theirs[name])
    figures["cleanlab: seconds"] = theirs["seconds"]
    return figures


if __name__ == "__main__":
    repeats = option("--repeats", 5, quick=1, help="draws of the wrong labels")
    run(measure, FOLDERS, ENCODER, repeats, peers("cleanlab"))
