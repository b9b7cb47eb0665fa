"""Three ways to fine-tune, and the choice among them, on images that nobody trained on.

For each draw of the labels: the plain prototypes, feature extraction (A), full (B) and
discriminative fine-tuning (C); `B or C`, which leaves the decay of C to cross-validation, with B as
the decay of 1; then `auto`, which is what a job does: choose among all by cross-validation and
promote only what the guard finds better. The peer is fastai's `fine_tune` with the same
weights, images and number of passes, in an environment of its own (`make bench-peers`).
"""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from scipy import stats
from torch import Tensor

from bench.few_shot import PEERS, Draw, Photo, draw_one, load
from bench.harness import ROOT, Kept, arguments, finish
from models.augmentation import Augmentation
from models.augmentation.kinds import augmentations
from models.encoders import Encoder, pick_device
from models.encoders.architectures.efficientnet_lite import classifier_network
from models.encoders.specs import parse
from models.evaluation.comparison import Verdict, compare
from models.finetuning import FinetuningMethod, embed_all, interpolate, resolve_recipe, start
from models.finetuning.lora import merge
from models.finetuning.methods import methods
from models.finetuning.model_selection import Selection
from models.heads.kinds.cosine import Cosine
from models.images import decode
from models.training.recipe import Recipe

SHOTS = (2, 5, 20, 100)
WAYS = {"A": "feature_extraction", "B": "full", "C": "discriminative"}
CLEARLY = 0.5  # points; what counts as worse on the test images


class Images(NamedTuple):
    """A data set, decoded."""

    name: str
    train: Tensor  # uint8 (N, 3, S, S)
    train_targets: Tensor
    test: Tensor
    test_targets: Tensor


class Task(NamedTuple):
    """One draw of one data set."""

    images: Path
    side: int
    one: Draw
    seed: int
    epochs: int  # 0: as a job does when nothing is said
    folds: int
    repeats: int
    device: str


@dataclass
class Outcome:
    """What came of a task: accuracy in %, CPU-seconds, and the way that was chosen."""

    task: Task
    accuracy: dict[str, float]
    seconds: dict[str, float]
    chosen: str
    targets: list[int]  # of the draw
    right: list[float]  # how often the candidate was right on each image of it, unseen
    before: list[float]  # the same of the prototypes
    verdict: Verdict = field(init=False)

    def __post_init__(self) -> None:
        """Ask the guard; it is not asked what it said when a draw was kept."""
        right, before = torch.tensor(self.right), torch.tensor(self.before)
        self.verdict = compare(right, before, torch.tensor(self.targets))
        self.accuracy["auto"] = self.accuracy["candidate" if self.promoted else "prototypes"]

    @property
    def promoted(self) -> bool:
        return self.verdict.better


def main() -> None:
    """Run the benchmark."""
    options = _options()
    shots = (2, 5) if options.quick else tuple(options.shots)
    seeds, epochs = (1, 3) if options.quick else (options.seeds, 0)
    how = (epochs, options.folds, options.repeats, str(pick_device(options.device)))
    tasks = [
        Task(folder, options.side, draw_one(load(folder)[0], n, seed), seed, *how)
        for seed in range(seeds)
        for n in sorted(shots, reverse=True)  # the longest first: no core idles at the end
        for folder in options.images
    ]
    started, outcomes, kept = time.monotonic(), list[Outcome](), Kept(options.resume)
    if not options.peers.exists():
        print(f"fastai: skipped, since {options.peers} is not there; make bench-peers")
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for seed, group in itertools.groupby(tasks, key=lambda task: task.seed):
            if time.monotonic() - started > 60 * options.minutes:
                print(f"time is up: draws from seed {seed} on are left out")
                break
            wanted = list(group)
            known = [(task, told) for task in wanted if (told := kept.find(str(task)))]
            found = [Outcome(task, **told) for task, told in known]
            left = [task for task in wanted if not kept.find(str(task))]
            for outcome in pool.imap_unordered(run, left):
                found.append(outcome)
                _keep(kept, outcome)
                _tell(outcome, len(outcomes) + len(found), len(tasks))
            alone = [outcome for outcome in found if "fastai" not in outcome.accuracy]
            if options.peers.exists() and alone:
                _add_fastai(options.peers, alone, options.processes)
                for outcome in alone:
                    _keep(kept, outcome)
            outcomes += found
    _finish(options, outcomes)


def run(task: Task) -> Outcome:
    """Train in every way on one draw."""
    torch.set_num_threads(1)
    data = images(task.images, task.side)
    encoder = encoder_at(task.side).to(task.device)
    support = torch.tensor(task.one.support)
    few, targets = data.train[support], data.train_targets[support]
    accuracy = {"prototypes": _judge(encoder, few, targets, data)}
    seconds: dict[str, float] = {}
    tuned = {}
    for way, name in WAYS.items():
        with _timed(seconds, way):
            tuned[name] = _train(methods[name](), encoder, few, targets, task)
        accuracy[way] = _judge(tuned[name], few, targets, data)
    with _timed(seconds, "auto"):
        selection = _cross_validate(encoder, few, targets, task)
    selected = selection.result()
    whole = {_name(c.method): c.accuracy for c in selected.candidates if c.share == 1}
    accuracy["B or C"] = accuracy["C" if whole[WAYS["C"]] > whole[WAYS["B"]] else "B"]
    before = _right(selection.predict(selection.embeddings), targets)
    name = _name(selected.method)
    candidate = interpolate(selected.method.prepare(encoder), tuned[name], selected.share)
    accuracy["candidate"] = _judge(candidate, few, targets, data)
    # Its last training, on all images, is that of the way it chose: it was done above.
    way = next(way for way, known in WAYS.items() if known == name)
    seconds["auto"] += seconds[way] if selected.share else 0
    right = _right(selected.predicted, targets)
    return Outcome(
        task,
        accuracy,
        seconds,
        f"{way} {selected.share:g}",
        targets.tolist(),
        right.tolist(),
        before.tolist(),
    )


@cache
def images(folder: Path, side: int) -> Images:
    """A data set, decoded as an encoder of this side wants it."""
    train, test = load(folder)
    names = sorted({photo.label for photo in train})
    return Images(
        folder.resolve().name,
        _decode(train, side),
        torch.tensor([names.index(photo.label) for photo in train]),
        _decode(test, side),
        torch.tensor([names.index(photo.label) for photo in test]),
    )


@cache
def encoder_at(side: int) -> Encoder:
    """EfficientNet-Lite0, for images of a smaller side than it was trained with."""
    encoder = parse("efficientnet_lite:0")[1].build().eval()
    encoder.preprocessing = _preprocessing(encoder, side)
    return encoder


def policy() -> list[Augmentation]:
    """What a job augments with when nothing is said."""
    return [augmentations["geometric"](), augmentations["colour"]()]


def _options() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="data sets")
    parser.add_argument("--side", type=int, default=64, help="pixels")
    parser.add_argument("--shots", type=int, nargs="+", default=SHOTS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folds", type=int, default=3, help="at most, of each choice")
    parser.add_argument("--repeats", type=int, default=1, help="of the cross-validation")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no seed later")
    parser.add_argument("--resume", type=Path, help="keep draws here, and go on from those there")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--peers", type=Path, default=PEERS, help="their Python")
    return parser.parse_args()


def _epochs(task: Task) -> int:
    return resolve_recipe(_recipe(task), encoder_at(task.side), len(task.one.support)).epochs


def _recipe(task: Task) -> Recipe:
    """What a job trains with when nothing is said; draws differ in their seed."""
    return Recipe(seed=task.seed, epochs=task.epochs)


def _preprocessing(encoder: Encoder, side: int) -> Any:
    given = encoder.preprocessing
    return replace(given, resize=round(side * given.resize / given.crop), crop=side)


def _decode(photos: Sequence[Photo], side: int) -> Tensor:
    wanted = _preprocessing(encoder_at(side), side)
    return torch.stack([decode(photo.path.read_bytes(), wanted).pixels for photo in photos])


def _train(
    method: FinetuningMethod, encoder: Encoder, few: Tensor, targets: Tensor, task: Task
) -> Encoder:
    run = start(method, encoder, few, targets, _recipe(task), policy=policy())
    for _ in run.training:
        pass
    tuned = run.averaged()
    merge(tuned)
    return tuned


def _cross_validate(encoder: Encoder, few: Tensor, targets: Tensor, task: Task) -> Selection:
    """A choice among all ways as a job makes it, up to the training on all images."""
    ways = [methods[name]() for name in WAYS.values()]
    folds = min(task.folds, int(torch.bincount(targets).min()))
    selection = Selection(
        encoder,
        few,
        targets,
        ways,
        _recipe(task),
        Cosine(),
        policy=policy(),
        folds=folds,
        repeats=task.repeats,
    )
    for progress in selection:
        if progress.fold is None:
            break
    return selection


def _name(method: FinetuningMethod) -> str:
    return type(method).__module__.rpartition(".")[2]


def _right(predicted: Tensor, targets: Tensor) -> Tensor:
    return (predicted == targets).float().mean(dim=0)


def _judge(encoder: Encoder, few: Tensor, targets: Tensor, data: Images) -> float:
    """Accuracy in % on the test images of the head that serves, fitted to the draw."""
    support = embed_all(encoder, few)
    head = Cosine().fit(support, targets, int(targets.max()) + 1, support.mean(dim=0))
    predicted = head.probabilities(embed_all(encoder, data.test)).argmax(dim=1)
    return 100 * float((predicted == data.test_targets).float().mean())


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.process_time()
    yield
    seconds[name] = time.process_time() - started


def _keep(kept: Kept, outcome: Outcome) -> None:
    own = {"task", "verdict"}
    kept.keep(str(outcome.task), {k: v for k, v in vars(outcome).items() if k not in own})


def _tell(outcome: Outcome, done: int, of: int) -> None:
    task = outcome.task
    found = ", ".join(f"{way} {value:.1f}" for way, value in outcome.accuracy.items())
    print(
        f"{done}/{of} {task.images.resolve().name} {task.one.shots} shots: {found}; "
        f"{outcome.chosen}, {'promoted' if outcome.promoted else 'kept'}",
        flush=True,
    )


def _add_fastai(python: Path, outcomes: Sequence[Outcome], processes: int) -> None:
    """Let fastai train on the same draws, and add what came of it."""
    first = outcomes[0].task
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = classifier_network(0)
        safetensors.torch.save_file(network.state_dict(), folder / "weights.safetensors")
        for one in {outcome.task.images for outcome in outcomes}:
            data = images(one, first.side)
            arrays = {k: v.numpy() for k, v in data._asdict().items() if k != "name"}
            np.savez(folder / f"{data.name}.npz", **arrays)
        draws = [
            {
                "data": outcome.task.images.resolve().name,
                "support": outcome.task.one.support,
                "seed": outcome.task.seed,
                "epochs": _epochs(outcome.task),
            }
            for outcome in outcomes
        ]
        (folder / "draws.json").write_text(json.dumps(draws))
        script: list[str | Path] = [
            python,
            ROOT / "bench/peers/fastai_finetune.py",
            folder,
            str(processes),
        ]
        done = subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True)
    for outcome, (accuracy, cpu) in zip(outcomes, json.loads(done.stdout), strict=True):
        outcome.accuracy["fastai"], outcome.seconds["fastai"] = accuracy, cpu


def _finish(options: argparse.Namespace, outcomes: Sequence[Outcome]) -> None:
    table = _table("accuracy in %, mean and half of its 95 % interval", outcomes, "accuracy")
    seconds = _table("CPU-seconds", outcomes, "seconds")
    pairs = (("B", "A"), ("C", "B"), ("B or C", "B"))
    many = [outcome for outcome in outcomes if outcome.task.one.shots >= 20]
    gains = {f"{one} - {other}": _gain(many, one, other) for one, other in pairs if many}
    regret = _regret(outcomes)
    promoted = [o for o in outcomes if o.promoted]
    worse = [o for o in promoted if o.accuracy["candidate"] < o.accuracy["prototypes"] - CLEARLY]
    shown = ", ".join(f"{name} {_shown(gain)}" for name, gain in gains.items())
    headline = (
        (f"from 20 shots: {shown} points; " if gains else "")
        + f"auto at most {max(regret.values()):.1f} points behind the best; "
        f"{len(worse)} of {len(promoted)} promotions were worse on the test images"
    )
    kept = (
        all(gains[name][0] > 0 for name in ("B - A", "C - B") if name in gains)
        and max(regret.values()) <= CLEARLY
        and len(worse) <= 0.01 * len(promoted)
    )
    result = {
        "accuracy": table,
        "cpu_seconds": seconds,
        "gains_from_20_shots": gains,
        "auto_behind_the_best": regret,
        "promoted": len(promoted),
        "promoted_but_worse": len(worse),
        "kept_but_better": sum(
            o.accuracy["candidate"] > o.accuracy["prototypes"] + CLEARLY
            for o in outcomes
            if not o.promoted
        ),
        "draws": [
            {
                "data": o.task.images.resolve().name,
                "shots": o.task.one.shots,
                "seed": o.task.seed,
                "chosen": o.chosen,
                "promoted": o.promoted,
                "reason": o.verdict.reason,
                **{way: round(value, 2) for way, value in o.accuracy.items()},
            }
            for o in sorted(outcomes, key=_place)
        ],
    }
    finish(options, result, headline, kept)


def _place(outcome: Outcome) -> tuple[str, int, int]:
    return outcome.task.images.resolve().name, outcome.task.one.shots, outcome.task.seed


def _mean(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and half of its 95 % interval, by Student's t; one value has none."""
    array = np.array(values)
    if len(array) < 2:
        return round(float(array.mean()), 2), None
    half = stats.t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / math.sqrt(len(array))
    return round(float(array.mean()), 2), round(float(half), 2)


def _gain(outcomes: Sequence[Outcome], one: str, other: str) -> tuple[float, float | None]:
    """How much better one way is than another."""
    return _mean([o.accuracy[one] - o.accuracy[other] for o in outcomes])


def _regret(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """How far the mean accuracy of `auto` is below that of the best way, by data and shots."""
    behind = {}
    for (name, shots), group in _groups(outcomes).items():
        means = {
            way: float(np.mean([o.accuracy[way] for o in group]))
            for way in ("prototypes", *WAYS, "auto")
        }
        behind[f"{name} {shots}"] = round(max(means.values()) - means["auto"], 2)
    return behind


def _groups(outcomes: Sequence[Outcome]) -> dict[tuple[str, int], list[Outcome]]:
    groups: dict[tuple[str, int], list[Outcome]] = {}
    for outcome in sorted(outcomes, key=_place):
        name, shots, _ = _place(outcome)
        groups.setdefault((name, shots), []).append(outcome)
    return groups


def _table(
    title: str, outcomes: Sequence[Outcome], field: str
) -> dict[str, dict[str, tuple[float, float | None]]]:
    """Print and return means by data and shots (columns) and way (rows)."""
    groups = _groups(outcomes)
    print(f"\n{title:<28}" + "".join(f"{f'{name} {n}':>18}" for name, n in groups))
    table: dict[str, dict[str, tuple[float, float | None]]] = {}
    for way in getattr(outcomes[0], field):
        table[way] = {}
        for (name, shots), group in groups.items():
            values = [getattr(outcome, field)[way] for outcome in group]
            table[way][f"{name} {shots}"] = _mean(values)
        print(f"{way:<28}" + "".join(f"{_shown(cell):>18}" for cell in table[way].values()))
    return table


def _shown(mean: tuple[float, float | None]) -> str:
    return f"{mean[0]:.1f}" + ("" if mean[1] is None else f" ± {mean[1]:.1f}")


if __name__ == "__main__":
    main()
