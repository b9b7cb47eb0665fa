"""What an encoder learns without labels, by every method, beside lightly's.

Each run gets the same CPU-seconds on one thread, starts from the same random weights and learns
from the same images. Then a linear probe, its nearest neighbours, centroids of five shots and
fine-tuning with twenty labels of each class say what the encoder is worth on test images. Masked
autoencoders are for fine-tuning; neighbours do not judge them.
"""

import gzip
import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F

from bench.data import DataSet, decoded, draw_shots
from bench.figures import grouped, mean, timed
from bench.finetune import centroid_accuracy, fine_tune, judge_encoder
from bench.harness import PROCESSES, RESUME, Options, Result, option, peers, run
from bench.tasks import ask_peer, run_all
from models.encoders import Encoder
from models.encoders.architectures.conv4 import Conv4
from models.encoders.architectures.pooled_rotations import PooledRotations
from models.encoders.architectures.vit import ViT
from models.encoders.specs import spec
from models.finetuning import embed_all
from models.finetuning.methods import methods as ways
from models.pretraining import Collapsed, Unsuited, start
from models.pretraining.methods import methods
from models.training.loop import Training
from models.training.recipe import Recipe

FASHION = Path("/usr/share/datasets/fashion-mnist")  # of Debian's dataset-fashion-mnist
TRAIN, TEST = 10_000, 2_000  # images of it
SIDE = 32  # of its images; of all else 64 pixels
BATCH = 64
PEER_METHODS = {  # lightly's, by network
    "conv4": ("simclr", "moco", "byol", "swav"),
    "rotations": (),
    "vit": ("simclr", "moco", "byol", "swav", "mae"),
}
TRIAL_STEPS = 8  # that tell how long a step takes; the first two are not counted
SHOTS, DRAWS, LABELS = 5, 20, 20
PIXELS = 16  # side of the images that raw pixels are judged at
GAIN, TIE = 3.0, 0.3  # points of linear probe: over random weights, and behind lightly


class Task(NamedTuple):
    """One run."""

    data: str  # `fashion`, `turned` (the same in any quarter turn), or a folder
    network: str  # `conv4`, `rotations` (the same in four quarter turns) or `vit`
    method: str  # of `methods`, `random` or `pixels`
    seed: int
    seconds: float
    lightly: Path | None = None  # the Python that has it, where it is to train

    @property
    def name(self) -> str:
        return f"lightly {self.method}" if self.lightly else self.method

    @property
    def group(self) -> str:
        return f"{Path(self.data).resolve().name} {self.network}"


def measure(options: Options) -> Result:
    """Run all tasks, and sum up by data set and network."""
    outcomes = run_all(attempt, list(_tasks(options)), options)
    groups = grouped((task.group, (task.name, outcome)) for task, outcome in outcomes.items())
    results = {
        group: {name: _row(runs) for name, runs in sorted(grouped(pairs).items())}
        for group, pairs in sorted(groups.items())
    }
    verdicts = {group: _verdict(rows) for group, rows in results.items()}
    headline = "; ".join(f"{group}: {text}" for group, (text, _) in verdicts.items())
    return Result({"results": results}, headline, all(goal for _, goal in verdicts.values()))


def attempt(task: Task) -> dict[str, Any]:
    """Pretrain once, and judge: accuracies in %, CPU-seconds, steps, and what went wrong."""
    torch.set_num_threads(1)
    data = images(task.data)
    outcome: dict[str, Any] = {"scores": {}, "seconds": 0.0, "steps": 0, "trouble": ""}
    if task.method == "pixels":
        return outcome | {"scores": _judge_pixels(data)}
    encoder = network(task.network, data.train.shape[-1], task.seed)
    try:
        if task.lightly:
            outcome |= _pretrain_lightly(task, encoder, data, task.lightly)
        elif task.method != "random":
            outcome |= _pretrain(task, encoder, data)
    except Unsuited as error:
        return outcome | {"trouble": f"unsuited: {error}"}
    outcome["scores"] = _judge(outcome.pop("encoder", encoder).eval(), data, task.seed)
    if task.method == "mae":
        del outcome["scores"]["kNN"]
    return outcome


@cache
def images(name: str) -> DataSet:
    """A data set by its name or folder, decoded."""
    if name == "fashion":
        return DataSet(name, *_fashion("train", TRAIN), *_fashion("t10k", TEST))
    if name == "turned":
        upright = images("fashion")
        return upright._replace(train=_turned(upright.train), test=_turned(upright.test))
    return decoded(Path(name), Conv4(image_side=64).build().preprocessing)


def network(name: str, side: int, seed: int) -> Encoder:
    """A small encoder with random weights."""
    conv4 = Conv4(width=32, image_side=side, seed=seed)
    if name == "conv4":
        return conv4.build()
    if name == "rotations":
        return PooledRotations(base=spec(conv4, "conv4")).build(pretrained=False)
    return ViT(width=64, image_side=side, patch=side // 8, depth=3, heads=2, seed=seed).build()


def _tasks(options: Options) -> Iterator[Task]:
    for seed, data, net in itertools.product(
        range(options.seeds), options.images, options.networks
    ):
        for method in options.methods:
            yield Task(data, net, method, seed, options.seconds)
            if options.peers and method in PEER_METHODS[net]:
                yield Task(data, net, method, seed, options.seconds, options.peers)
        yield Task(data, net, "random", seed, 0)
        if not seed:
            yield Task(data, net, "pixels", 0, 0)


def _fashion(part: str, count: int) -> tuple[Tensor, Tensor]:
    """The first images and classes, from the files as Debian ships them."""
    with gzip.open(FASHION / f"{part}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)[:count]
    with gzip.open(FASHION / f"{part}-labels-idx1-ubyte.gz") as file:
        targets = np.frombuffer(file.read(), np.uint8, offset=8)[:count]
    grown = F.interpolate(torch.tensor(pixels).float(), (SIDE, SIDE), mode="bilinear")
    coloured = grown.round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    return coloured, torch.tensor(targets).long()


def _turned(pixels: Tensor) -> Tensor:
    """Each image by some quarter turns, as if it had no upright position."""
    turns = torch.randint(4, (len(pixels),), generator=torch.Generator().manual_seed(0))
    return torch.stack([p.rot90(int(n), (1, 2)) for p, n in zip(pixels, turns, strict=True)])


def _pretrain(task: Task, encoder: Encoder, data: DataSet) -> dict[str, Any]:
    begin = partial(start, methods[task.method](), encoder, fresh=True)
    recipe = Recipe(batch_size=BATCH, seed=task.seed)
    epochs, pixels = _affordable(begin, data.train, recipe, task.seconds)
    training = begin(pixels, replace(recipe, epochs=epochs))
    (steps, reason), seconds = timed(partial(train, training), time.process_time)
    trouble = f"collapsed: {reason}" if reason else ""
    learned = training.objective.encoder
    return {"seconds": seconds, "steps": steps, "trouble": trouble, "encoder": learned}


def train(training: Training, most: int | None = None) -> tuple[int, str]:
    """How many steps a training took, at most so many, and why it collapsed, if it did."""
    steps = 0
    try:
        for _ in itertools.islice(training.steps(), most):
            steps += 1
    except Collapsed as error:
        return steps, str(error)
    return steps, ""


def _affordable(
    begin: Callable[[Tensor, Recipe], Training], pixels: Tensor, recipe: Recipe, seconds: float
) -> tuple[int, Tensor]:
    """How many epochs fit into the seconds, and of which images if not one of all does."""
    steps = begin(pixels, replace(recipe, epochs=1)).steps()
    times = [time.process_time()]
    times += [time.process_time() for _ in itertools.islice(steps, TRIAL_STEPS)]
    each = (times[-1] - times[2]) / (len(times) - 3)
    before = max(0.0, times[1] - times[0] - each)  # what an epoch does before its first step
    epochs = seconds / (before + each * (len(pixels) // BATCH))
    few = max(2, round(min(1.0, epochs) * len(pixels) / BATCH)) * BATCH
    return max(1, round(epochs)), pixels[:few] if epochs < 1 else pixels


def _pretrain_lightly(task: Task, encoder: Encoder, data: DataSet, python: Path) -> dict[str, Any]:
    """The same encoder, taught by lightly in a process of its own."""
    question = task._asdict() | {"batch": BATCH, "images": data.train.numpy(), "encoder": encoder}
    (answer,) = ask_peer(python, "lightly_pretraining", [question])
    encoder.load_state_dict(answer.pop("encoder").state_dict())
    return dict(answer)


def _judge(encoder: Encoder, data: DataSet, seed: int) -> dict[str, float]:
    scores = _judge_vectors(data, embed_all(encoder, data.train), embed_all(encoder, data.test))
    few, targets = draw_shots(data.targets, LABELS, seed)
    pixels = data.train[few]
    tuned = fine_tune(ways["full"](), encoder, pixels, targets, Recipe(seed=seed)).eval()
    return scores | {"fine-tuned": judge_encoder(tuned, data=data, few=pixels, targets=targets)}


def _judge_pixels(data: DataSet) -> dict[str, float]:
    small = (F.adaptive_avg_pool2d(p.float() / 255, PIXELS) for p in (data.train, data.test))
    return _judge_vectors(data, *(F.normalize(pixels.flatten(1), dim=1) for pixels in small))


def _judge_vectors(data: DataSet, train: Tensor, test: Tensor) -> dict[str, float]:
    """Accuracies in % of what needs no more than embeddings."""
    targets, truth = data.targets, data.test_targets
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    nearest = KNeighborsClassifier(20, metric="cosine", weights="distance").fit(train, targets)
    with warnings.catch_warnings(action="ignore"):  # 300 iterations say enough
        probe.fit(train, targets)
    draws = [draw_shots(targets, SHOTS, seed) for seed in range(DRAWS)]
    few = [centroid_accuracy(train[rows], labels, test, truth) for rows, labels in draws]
    return {
        "probe": 100 * float(probe.score(test, truth)),
        "kNN": 100 * float(nearest.score(test, truth)),
        "5-shot": mean(few),
    }


def _row(outcomes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean, least and greatest of each score, and what it took."""
    scores = {n: [outcome["scores"][n] for outcome in outcomes] for n in outcomes[0]["scores"]}
    return {
        **{n: [round(x, 2) for x in (mean(v), min(v), max(v))] for n, v in scores.items()},
        "cpu_seconds": round(mean([outcome["seconds"] for outcome in outcomes]), 1),
        "steps": round(mean([outcome["steps"] for outcome in outcomes])),
        "trouble": sorted({outcome["trouble"] for outcome in outcomes if outcome["trouble"]}),
    }


def _verdict(rows: dict[str, dict[str, Any]]) -> tuple[str, bool]:
    """Which methods are too little above random weights, and where we are beside lightly."""
    probe = {name: row["probe"][0] for name, row in rows.items() if "probe" in row}
    floor = probe.get("random", math.nan) + GAIN
    ours = {name: value for name, value in probe.items() if name in methods}
    low = sorted(name for name, value in ours.items() if not value >= floor)
    ahead = {
        name: round(ours[name] - probe[f"lightly {name}"], 2)
        for name in ours
        if f"lightly {name}" in probe
    }
    text = f"{len(ours) - len(low)} of {len(ours)} methods gain {GAIN:g} points of linear probe"
    if ahead:
        text += f", against lightly {ahead}"
    behind = any(gain < -TIE for gain in ahead.values())
    leads = sum(gain > 0 for gain in ahead.values())
    return text, not low and not behind and (not ahead or leads >= min(3, len(ahead)))


if __name__ == "__main__":
    run(
        measure,
        option("--images", ["fashion"], nargs="+", help="`fashion`, `turned` or folders"),
        option("--networks", ["conv4", "vit"], nargs="+", choices=PEER_METHODS),
        option("--methods", sorted(methods), nargs="+"),
        option("--seeds", 3, quick=1),
        option("--seconds", 60.0, quick=3.0, help="of CPU, for each run"),
        PROCESSES,
        RESUME,
        peers("lightly"),
    )
