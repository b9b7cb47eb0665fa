"""Whether the accuracy forecast for twice the labels is the accuracy that twice the labels have.

Labels are drawn at random, as many of each class; the forecast is made from them alone; then as
many are added and the head is judged on the images that the labels were drawn from and that have
none, where classes count as they do among the labels. Test images that were collected apart would
not do: those of some sets are easier. The bare alternative is to expect no change: the accuracy by
leave-one-out now.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bench.embeddings import DataSet, data_set, digits
from bench.harness import arguments, finish
from models.evaluation.forecast import forecast, learning_curve
from models.heads.kinds.cosine import Cosine

SHOTS = (5, 10, 20, 40)
BIAS = 1.5  # points, at most, on average over draws
COVERED = (75.0, 85.0)  # %, by intervals of 80 %
NOISE = 2.0  # standard errors of a share that `--check` allows for


class Draw(NamedTuple):
    """What was foretold, in points, and what came."""

    foretold: float
    low: float
    high: float
    came: float
    now: float  # by leave-one-out
    was: float  # by images without a label, with the labels that the forecast had


def main() -> None:
    """Run the benchmark."""
    options = _options()
    torch.set_num_threads(1)
    sets = [digits(options.encoder), *(data_set(one, options.encoder) for one in options.images)]
    shots, repeats = (SHOTS[1:3], 8) if options.quick else (SHOTS, options.repeats)
    table: dict[str, dict[str, dict[str, float]]] = {}
    everything: list[Draw] = []
    print(
        f"{'':<28}{'true':>7}{'bias':>7}{'error':>7}{'no change':>11}{'covered':>9}{'width':>7}"
        f"{'leave-one-out':>15}"
    )
    for data in sets:
        table[data.name] = {}
        for n in shots:
            draws = [one for seed in range(repeats) if (one := _draw(data, n, seed))]
            if draws:
                everything += draws
                row = table[data.name][str(n)] = _summary(draws)
                print(
                    f"{f'{data.name}, {n} to {2 * n} shots':<28}{row['came']:>7.1f}"
                    f"{row['bias']:>+7.2f}{row['error']:>7.2f}{row['error_without']:>11.2f}"
                    f"{row['covered']:>8.0f}%{row['width']:>7.1f}"
                    f"{row['leave_one_out_bias']:>+15.2f}",
                    flush=True,
                )
    whole = _summary(everything)
    slack = 100 * NOISE * (0.8 * 0.2 / len(everything)) ** 0.5
    kept = abs(whole["bias"]) <= BIAS and (
        COVERED[0] - slack <= whole["covered"] <= COVERED[1] + slack
    )
    headline = (
        f"accuracy at twice the labels: {whole['bias']:+.2f} points off on average, "
        f"{whole['error']:.2f} in a single case ({whole['error_without']:.2f} when no change is "
        f"expected); intervals of 80 % cover {whole['covered']:.0f} % of {len(everything)} draws"
    )
    finish(options, {"forecast": table, "all": whole}, headline, kept)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument(
        "--images", type=Path, nargs="*", default=[], help="folders of class folders, beside digits"
    )
    parser.add_argument("--encoder", default="efficientnet_lite:0")
    parser.add_argument("--repeats", type=int, default=100, help="draws of each kind")
    return parser.parse_args()


def _draw(data: DataSet, shots: int, seed: int) -> Draw | None:
    """A forecast from some labels of each class; None where there are not twice as many."""
    few, many = _support(data.targets, shots, seed), _support(data.targets, 2 * shots, seed)
    if len(many) < 1.9 * len(few):
        return None
    train, targets, classes = data.train[few].float(), data.targets[few], int(data.targets.max())
    head = Cosine(temperature=1.0)
    scores = head.fit(train, targets, classes + 1).leave_one_out(train, targets)
    right = scores.argmax(dim=1) == targets
    curve = learning_curve(head, train, targets, leave_one_out=right, seed=seed)
    told = forecast(curve, len(many), seed=seed).accuracy
    measured = (_accuracy(data, many), float(right.float().mean()), _accuracy(data, few))
    return Draw(*(100 * x for x in (*told, *measured)))


def _accuracy(data: DataSet, support: Tensor) -> float:
    """On the images without a label, where classes count as they do in the support."""
    counts = torch.bincount(data.targets[support])
    fitted = Cosine().fit(data.train[support].float(), data.targets[support], len(counts))
    rest = torch.ones(len(data.targets), dtype=torch.bool)
    rest[support] = False
    truth = data.targets[rest]
    right = fitted.probabilities(data.train[rest].float()).argmax(dim=1) == truth
    left = torch.bincount(truth, minlength=len(counts))
    weights = counts.double() * (left > 0)  # a class may have no image left
    recalls = torch.bincount(truth, right.double(), minlength=len(counts)) / left.clamp_min(1)
    return float((recalls * weights).sum() / weights.sum())


def _support(targets: Tensor, shots: int, seed: int) -> Tensor:
    """The first images of each class in an order that the seed decides; more contain fewer."""
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    classes = targets[order]
    return torch.cat([order[classes == c][:shots] for c in range(int(targets.max()) + 1)])


def _summary(draws: list[Draw]) -> dict[str, float]:
    foretold, low, high, came, now, was = torch.tensor(draws, dtype=torch.float64).T
    return {
        name: round(float(value.double().mean()), 3)
        for name, value in {
            "came": came,
            "bias": foretold - came,
            "error": (foretold - came).abs(),
            "error_without": (now - came).abs(),
            "leave_one_out_bias": now - was,
            "covered": 100 * ((low <= came) & (came <= high)),
            "width": high - low,
        }.items()
    }


if __name__ == "__main__":
    main()
