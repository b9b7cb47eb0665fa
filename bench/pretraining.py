"""What an encoder learns without labels, by every method, beside lightly's.

Each run gets the same CPU-seconds on one thread, starts from the same random weights and learns
from the same images. Then a linear probe, its nearest neighbours, centroids of five shots and
fine-tuning with twenty labels of each class say what the encoder is worth on test images. Masked
autoencoders are for fine-tuning; neighbours do not judge them.
"""

import argparse
import functools
import gzip
import itertools
import json
import math
import multiprocessing
import os
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn import functional as F

from bench.few_shot import PEERS, Photo, load
from bench.harness import ROOT, Kept, arguments, finish
from models.augmentation.kinds import augmentations
from models.encoders import Encoder
from models.encoders.architectures.conv4 import Conv4
from models.encoders.architectures.pooled_rotations import PooledRotations
from models.encoders.architectures.vit import ViT
from models.encoders.specs import spec
from models.finetuning import embed_all
from models.finetuning import start as start_finetuning
from models.finetuning.methods import methods as ways
from models.heads.kinds.cosine import Cosine
from models.images import decode
from models.pretraining import Collapsed, Unsuited, start
from models.pretraining.methods import methods
from models.training.recipe import Recipe

FASHION = Path("/usr/share/datasets/fashion-mnist")  # of Debian's dataset-fashion-mnist
TRAIN, TEST = 10_000, 2_000  # images of it
SIDES = {"fashion": 32}  # pixels; others have 64
BATCH = 64
NETWORKS = ("conv4", "rotations", "vit")
PEER_METHODS = ("simclr", "moco", "byol", "swav", "mae")
TRIAL_STEPS = 8  # that tell how long a step takes; the first two are not counted
SHOTS, DRAWS, LABELS = 5, 20, 20
PIXELS = 16  # side of the images that raw pixels are judged at
GAIN, TIE = 3.0, 0.3  # points of linear probe: over random weights, and behind lightly


class Images(NamedTuple):
    """A data set, decoded."""

    train: Tensor  # uint8 (N, 3, S, S)
    train_targets: Tensor
    test: Tensor
    test_targets: Tensor


@dataclass(frozen=True)
class Task:
    """One run."""

    data: str  # `fashion`, `turned` (the same in any quarter turn), or a folder
    network: str  # `conv4`, `rotations` (the same in four quarter turns) or `vit`
    method: str  # of `methods`, `random` or `pixels`
    seed: int
    seconds: float
    lightly: bool = False

    @property
    def name(self) -> str:
        return f"lightly {self.method}" if self.lightly else self.method

    @property
    def group(self) -> str:
        return f"{Path(self.data).resolve().name} {self.network}"


@dataclass
class Outcome:
    """What came of it: accuracies in %, CPU-seconds, steps, and what went wrong."""

    task: Task
    scores: dict[str, float]
    seconds: float = 0.0
    steps: int = 0
    trouble: str = ""


def main() -> None:
    """Run the benchmark."""
    options = _options()
    tasks = list(_tasks(options))
    kept = Kept(options.resume)
    known = [(task, told) for task in tasks if (told := kept.find(str(task)))]
    outcomes = [Outcome(task, **told) for task, told in known]
    left = [task for task in tasks if not kept.find(str(task))]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for outcome in pool.imap_unordered(functools.partial(run, peers=options.peers), left):
            outcomes.append(outcome)
            kept.keep(str(outcome.task), {k: v for k, v in vars(outcome).items() if k != "task"})
            scores = ", ".join(f"{name} {value:.1f}" for name, value in outcome.scores.items())
            print(
                f"{len(outcomes)}/{len(tasks)} {outcome.task.group} {outcome.task.name}: {scores}; "
                f"{outcome.steps} steps in {outcome.seconds:.0f} s {outcome.trouble}",
                flush=True,
            )
    _finish(options, outcomes)


def run(task: Task, peers: Path) -> Outcome:
    """Pretrain once, and judge."""
    torch.set_num_threads(1)
    data = images(task.data)
    if task.method == "pixels":
        return Outcome(task, _judge_pixels(data))
    encoder = network(task.network, data.train.shape[-1], task.seed)
    if task.method == "random":
        return Outcome(task, _judge(encoder, data, task.seed))
    outcome, learned = (
        _pretrain_lightly(task, encoder, data, peers)
        if task.lightly
        else _pretrain(task, encoder, data)
    )
    if learned is not None:
        outcome.scores = _judge(learned, data, task.seed, neighbours=task.method != "mae")
    return outcome


@functools.cache
def images(name: str) -> Images:
    """A data set by its name or folder."""
    if name == "fashion":
        return Images(*_fashion("train", TRAIN), *_fashion("t10k", TEST))
    if name == "turned":
        upright = images("fashion")
        return upright._replace(train=_turned(upright.train), test=_turned(upright.test))
    train, test = load(Path(name))
    labels = sorted({photo.label for photo in train})
    return Images(*_decode(train, labels), *_decode(test, labels))


def network(name: str, side: int, seed: int) -> Encoder:
    """A small encoder with random weights."""
    conv4 = Conv4(width=32, image_side=side, seed=seed)
    if name == "conv4":
        return conv4.build()
    if name == "rotations":
        return PooledRotations(base=spec(conv4, "conv4")).build(pretrained=False)
    return ViT(width=64, image_side=side, patch=side // 8, depth=3, heads=2, seed=seed).build()


def _options() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument(
        "--images", nargs="+", default=["fashion"], help="`fashion`, `turned` or folders"
    )
    parser.add_argument("--networks", nargs="+", default=["conv4", "vit"], choices=NETWORKS)
    parser.add_argument("--methods", nargs="+", default=sorted(methods))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="of CPU, for each run")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--resume", type=Path, help="keep runs here, and go on from those there")
    parser.add_argument("--peers", type=Path, default=PEERS, help="their Python")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.seconds = 1, 3.0
    if not options.peers.exists():
        print(f"lightly: skipped, since {options.peers} is not there; make bench-peers")
    return options


def _tasks(options: argparse.Namespace) -> Iterator[Task]:
    for seed, data, net in itertools.product(
        range(options.seeds), options.images, options.networks
    ):
        for method in options.methods:
            yield Task(data, net, method, seed, options.seconds)
            if (
                options.peers.exists()
                and method in PEER_METHODS
                and (net, method) != ("conv4", "mae")
                and net != "rotations"
            ):
                yield Task(data, net, method, seed, options.seconds, lightly=True)
        yield Task(data, net, "random", seed, 0)
        if not seed:
            yield Task(data, net, "pixels", 0, 0)


def _fashion(part: str, count: int) -> tuple[Tensor, Tensor]:
    """The first images and classes, from the files as Debian ships them."""
    with gzip.open(FASHION / f"{part}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)[:count]
    with gzip.open(FASHION / f"{part}-labels-idx1-ubyte.gz") as file:
        targets = np.frombuffer(file.read(), np.uint8, offset=8)[:count]
    side = SIDES["fashion"]
    grown = F.interpolate(torch.tensor(pixels).float(), (side, side), mode="bilinear")
    coloured = grown.round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    return coloured, torch.tensor(targets).long()


def _turned(pixels: Tensor) -> Tensor:
    """Each image by some quarter turns, as if it had no upright position."""
    turns = torch.randint(4, (len(pixels),), generator=torch.Generator().manual_seed(0))
    return torch.stack([one.rot90(int(n), (1, 2)) for one, n in zip(pixels, turns, strict=True)])


def _decode(photos: Sequence[Photo], labels: list[str]) -> tuple[Tensor, Tensor]:
    wanted = replace(Conv4(image_side=64).build().preprocessing)
    pixels = torch.stack([decode(photo.path.read_bytes(), wanted).pixels for photo in photos])
    return pixels, torch.tensor([labels.index(photo.label) for photo in photos])


def _pretrain(task: Task, encoder: Encoder, data: Images) -> tuple[Outcome, Encoder | None]:
    recipe = Recipe(batch_size=BATCH, seed=task.seed)
    outcome = Outcome(task, {})
    try:
        epochs, pixels = _affordable(task, encoder, data.train, recipe)
        training = start(
            methods[task.method](), encoder, pixels, replace(recipe, epochs=epochs), fresh=True
        )
    except Unsuited as trouble:
        outcome.trouble = f"unsuited: {trouble}"
        return outcome, None
    with _timed(outcome):
        try:
            for _ in training.steps():
                outcome.steps += 1
        except Collapsed as trouble:
            outcome.trouble = f"collapsed: {trouble}"
    return outcome, training.objective.encoder.eval()


def _affordable(task: Task, encoder: Encoder, pixels: Tensor, recipe: Recipe) -> tuple[int, Tensor]:
    """How many epochs fit into the seconds, and of which images if not one of all does."""
    method = methods[task.method]()
    steps = start(method, encoder, pixels, replace(recipe, epochs=1), fresh=True).steps()
    times = [time.process_time()]
    times += [time.process_time() for _ in itertools.islice(steps, TRIAL_STEPS)]
    each = (times[-1] - times[2]) / (len(times) - 3)
    before = max(0.0, times[1] - times[0] - each)  # what an epoch does before its first step
    epochs = task.seconds / (before + each * (len(pixels) // BATCH))
    few = max(2, round(min(1.0, epochs) * len(pixels) / BATCH)) * BATCH
    return max(1, round(epochs)), pixels[:few] if epochs < 1 else pixels


def _pretrain_lightly(
    task: Task, encoder: Encoder, data: Images, peers: Path
) -> tuple[Outcome, Encoder | None]:
    """The same encoder, taught by lightly in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "images.npy", data.train.numpy())
        torch.save(encoder.state_dict(), folder / "weights.pt")
        (folder / "task.json").write_text(json.dumps(asdict(task) | {"batch": BATCH}))
        command = [peers, ROOT / "bench/peers/lightly_pretraining.py", folder]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environment
        )
        encoder.load_state_dict(torch.load(folder / "learned.pt"))
    told = json.loads(done.stdout.splitlines()[-1])
    return Outcome(task, {}, told["seconds"], told["steps"]), encoder.eval()


def _judge(
    encoder: Encoder, data: Images, seed: int, *, neighbours: bool = True
) -> dict[str, float]:
    train, test = embed_all(encoder, data.train), embed_all(encoder, data.test)
    scores = _judge_vectors(train, test, data)
    if not neighbours:
        del scores["kNN"]
    few = _draw(data.train_targets, LABELS, seed)
    policy = [augmentations["geometric"](), augmentations["colour"]()]
    tuning = start_finetuning(
        ways["full"](),
        encoder,
        data.train[few],
        data.train_targets[few],
        Recipe(seed=seed),
        policy=policy,
    )
    for _ in tuning.training:
        pass
    tuned = tuning.averaged().eval()
    support, test = embed_all(tuned, data.train[few]), embed_all(tuned, data.test)
    truth = data.test_targets
    return scores | {"fine-tuned": _centroids(support, data.train_targets[few], test, truth)}


def _judge_pixels(data: Images) -> dict[str, float]:
    def vectors(pixels: Tensor) -> Tensor:
        small = F.adaptive_avg_pool2d(pixels.float() / 255, PIXELS)
        return F.normalize(small.flatten(1), dim=1)

    return _judge_vectors(vectors(data.train), vectors(data.test), data)


def _judge_vectors(train: Tensor, test: Tensor, data: Images) -> dict[str, float]:
    """Accuracies in % of what needs no more than embeddings."""
    targets, truth = data.train_targets, data.test_targets
    mean, deviation = train.mean(dim=0), train.std(dim=0).clamp_min(1e-6)
    probe = LogisticRegression(max_iter=300)
    nearest = KNeighborsClassifier(20, metric="cosine", weights="distance")
    with warnings.catch_warnings(action="ignore"):  # 300 iterations say enough
        probe.fit((train - mean) / deviation, targets)
    nearest.fit(train, targets)
    draws = [_draw(targets, SHOTS, seed) for seed in range(DRAWS)]
    few = [_centroids(train[one], targets[one], test, truth) for one in draws]
    return {
        "probe": 100 * float(probe.score((test - mean) / deviation, truth)),
        "kNN": 100 * float(nearest.score(test, truth)),
        "5-shot": float(np.mean(few)),
    }


def _centroids(support: Tensor, targets: Tensor, queries: Tensor, truth: Tensor) -> float:
    head = Cosine().fit(support, targets, int(targets.max()) + 1, support.mean(dim=0))
    right = head.probabilities(queries).argmax(dim=1) == truth
    return 100 * float(right.float().mean())


def _draw(targets: Tensor, shots: int, seed: int) -> Tensor:
    """Positions of so many images of each class."""
    chance = np.random.default_rng(seed)
    members = [
        (targets == one).nonzero().flatten().numpy() for one in range(int(targets.max()) + 1)
    ]
    return torch.tensor(
        np.concatenate([chance.choice(m, min(shots, len(m)), False) for m in members])
    )


@contextmanager
def _timed(outcome: Outcome) -> Iterator[None]:
    started = time.process_time()
    yield
    outcome.seconds = time.process_time() - started


def _finish(options: argparse.Namespace, outcomes: Sequence[Outcome]) -> None:
    groups: dict[str, dict[str, list[Outcome]]] = {}
    for outcome in sorted(outcomes, key=lambda o: (o.task.group, o.task.name, o.task.seed)):
        groups.setdefault(outcome.task.group, {}).setdefault(outcome.task.name, []).append(outcome)
    result = {group: _table(group, rows) for group, rows in groups.items()}
    verdicts = {group: _verdict(rows) for group, rows in result.items()}
    headline = "; ".join(f"{group}: {said}" for group, (said, _) in verdicts.items())
    finish(options, {"results": result}, headline, all(kept for _, kept in verdicts.values()))


def _table(group: str, rows: dict[str, list[Outcome]]) -> dict[str, dict[str, Any]]:
    """Print and return the mean, least and greatest of each score."""
    table: dict[str, dict[str, Any]] = {}
    print(f"\n{group}: mean (least to greatest) in %")
    for name, outcomes in rows.items():
        table[name] = {
            score: _range([one.scores[score] for one in outcomes]) for score in outcomes[0].scores
        }
        shown = "  ".join(
            f"{score} {mean:.1f} ({low:.1f} to {high:.1f})"
            for score, (mean, low, high) in table[name].items()
        )
        table[name] |= {
            "cpu_seconds": round(float(np.mean([one.seconds for one in outcomes])), 1),
            "steps": round(float(np.mean([one.steps for one in outcomes]))),
            "trouble": sorted({one.trouble for one in outcomes if one.trouble}),
        }
        print(f"  {name:<16}{shown}  {table[name]['steps']} steps {table[name]['trouble'] or ''}")
    return table


def _range(values: Sequence[float]) -> tuple[float, float, float]:
    return round(float(np.mean(values)), 2), round(min(values), 2), round(max(values), 2)


def _verdict(rows: dict[str, dict[str, Any]]) -> tuple[str, bool]:
    """Which methods are too little above random weights, and where we are beside lightly."""
    probe = {name: row["probe"][0] for name, row in rows.items() if "probe" in row}
    floor = probe.get("random", math.nan) + GAIN
    ours = {name: value for name, value in probe.items() if name in methods}
    low = sorted(name for name, value in ours.items() if not value >= floor)
    ahead = {
        name: round(ours[name] - probe[f"lightly {name}"], 2)
        for name in PEER_METHODS
        if name in ours and f"lightly {name}" in probe
    }
    said = f"{len(ours) - len(low)} of {len(ours)} methods gain {GAIN:g} points of linear probe"
    if ahead:
        said += f", against lightly {ahead}"
    behind = any(gain < -TIE for gain in ahead.values())
    leads = sum(gain > 0 for gain in ahead.values())
    return said, not low and not behind and (not ahead or leads >= min(3, len(ahead)))


if __name__ == "__main__":
    main()
