"""Whether the accuracy forecast for twice the labels is the accuracy that twice the labels have.

Labels are drawn at random, as many of each class; the forecast is made from them alone; then as
many are added and the head is judged on the images that the labels were drawn from and that have
none, where classes count as they do among the labels. Test images that were collected apart would
not do: those of some sets are easier. The bare alternative is to expect no change: the accuracy by
leave-one-out now.
"""

import torch
from torch import Tensor

from bench.data import DataSet, data_sets
from bench.figures import means
from bench.harness import ENCODER, FOLDERS, Options, Result, option, run
from models.evaluation.forecast import forecast, learning_curve
from models.evaluation.intervals import weighted_accuracy
from models.heads.kinds.cosine import Cosine

SHOTS = (5, 10, 20, 40)
BIAS = 1.5  # points, at most, on average over draws
COVERED = (75.0, 85.0)  # %, by intervals of 80 %
NOISE = 2.0  # standard errors of a share that `--check` allows for


def measure(options: Options) -> Result:
    """Forecast and judge draw after draw, data set after data set."""
    torch.set_num_threads(1)
    table: dict[str, dict[str, dict[str, float]]] = {}
    everything: list[dict[str, float]] = []
    for data in data_sets(options):
        table[data.name] = {}
        for shots in SHOTS[1:3] if options.quick else SHOTS:
            tries = (_draw(data, shots, seed) for seed in range(options.repeats))
            if draws := [draw for draw in tries if draw]:
                everything += draws
                table[data.name][str(shots)] = means(draws, 3)
    whole = means(everything, 3)
    slack = 100 * NOISE * (0.8 * 0.2 / len(everything)) ** 0.5
    covered = COVERED[0] - slack <= whole["covered"] <= COVERED[1] + slack
    headline = (
        f"accuracy at twice the labels: {whole['bias']:+.2f} points off on average, "
        f"{whole['error']:.2f} in a single case ({whole['error_without']:.2f} when no change is "
        f"expected); intervals of 80 % cover {whole['covered']:.0f} % of {len(everything)} draws"
    )
    return Result(
        {"forecast": table, "all": whole}, headline, abs(whole["bias"]) <= BIAS and covered
    )


def _draw(data: DataSet, shots: int, seed: int) -> dict[str, float] | None:
    """Points by which a forecast from some labels of each class is off, and what came.

    None where there are not twice as many labels.
    """
    few, many = _support(data.targets, shots, seed), _support(data.targets, 2 * shots, seed)
    if len(many) < 1.9 * len(few):
        return None
    train, targets, classes = data.train[few].float(), data.targets[few], int(data.targets.max())
    head = Cosine(temperature=1.0)
    scores = head.fit(train, targets, classes + 1).leave_one_out(train, targets)
    right = scores.argmax(dim=1) == targets
    curve = learning_curve(head, train, targets, leave_one_out=right, seed=seed)
    estimate, low, high = forecast(curve, len(many), seed=seed).accuracy
    now, before, came = float(right.float().mean()), _accuracy(data, few), _accuracy(data, many)
    return {
        "came": 100 * came,
        "bias": 100 * (estimate - came),
        "error": 100 * abs(estimate - came),
        "error_without": 100 * abs(now - came),
        "leave_one_out_bias": 100 * (now - before),
        "covered": 100.0 * (low <= came <= high),
        "width": 100 * (high - low),
    }


def _accuracy(data: DataSet, support: Tensor) -> float:
    """On the images without a label, where classes count as they do in the support."""
    counts = torch.bincount(data.targets[support])
    fitted = Cosine().fit(data.train[support].float(), data.targets[support], len(counts))
    unlabeled = torch.ones(len(data.targets), dtype=torch.bool)
    unlabeled[support] = False
    truth = data.targets[unlabeled]
    right = fitted.probabilities(data.train[unlabeled].float()).argmax(dim=1) == truth
    weights = counts / torch.bincount(truth, minlength=len(counts))
    return weighted_accuracy(right, weights[truth]).value


def _support(targets: Tensor, shots: int, seed: int) -> Tensor:
    """The first images of each class in an order that the seed decides; more contain fewer."""
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    classes = targets[order]
    return torch.cat([order[classes == c][:shots] for c in range(int(targets.max()) + 1)])


if __name__ == "__main__":
    repeats = option("--repeats", 100, quick=8, help="draws of each kind")
    run(measure, FOLDERS, ENCODER, repeats)
