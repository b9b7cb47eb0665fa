"""Ways to meta-learn, from random weights on Omniglot, tested on characters that they never saw.

All have the split of Vinyals et al. (2016) with turns, the same network, and the same episodes to
test with; `own` is the method's own answer, `served` that of the product's head on the embeddings
of unit length that the service stores. No answer depends on other queries. Beside them: pixels, and
the network before it learned. CPU seconds are of one thread.

`--heads` is about methods that learn a head: on features that stay, of an encoder that learned
other characters, beside prototypes on the same episodes; whether the guard lets them serve; and how
fast they refit, answer and rank with 1,280 dimensions, 10 labels of 5 shots, and a million images.
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from bench.harness import Options, Result, option, run
from bench.meta_heads import measure_heads
from bench.meta_served import measure_served
from bench.omniglot import SIDE, Characters, read_characters, read_runs
from models.encoders.architectures.conv4 import Conv4
from models.finetuning import embed_all
from models.heads import Head
from models.heads.kinds.cosine import Cosine
from models.heads.kinds.knn import Knn
from models.heads.kinds.mahalanobis import Mahalanobis
from models.heads.kinds.ridge import Ridge
from models.metalearning import MetaMethod, accuracies, start
from models.metalearning.episodes import Episode, Episodes, EpisodeShape, LabelSplit
from models.metalearning.guard import correct_answers, queries_asked
from models.metalearning.learners import learners
from models.training.loop import as_values
from models.training.recipe import Recipe

ENCODER_METHODS = [name for name, kind in learners.items() if isinstance(kind(), MetaMethod)]
CELLS = {"5w1s": (5, 1), "5w5s": (5, 5), "20w1s": (20, 1), "20w5s": (20, 5)}
QUERIES, TESTED_QUERIES = 5, 15  # of each label, in training and test
AN_EPOCH = 50  # episodes
VALIDATED = 30  # labels
GOALS = {  # percent at 5w1s and 5w5s
    "prototypical": (97.0, 99.0),
    "matching": (94.0, 97.0),
    "r2d2": (94.0, 98.5),
    "simple_cnaps": (94.0, 98.5),
}
# Percent of errors within an alphabet, as Lake et al. have them (2019, arXiv 1902.03477).
PEOPLE, PUBLISHED = 4.5, {"BPL": 3.3, "prototypical": 13.7}
QUICK_GOAL = 90.0  # of prototypical at 5w1s
HEADS: dict[str, Head] = {
    "prototypical": Cosine(),
    "matching": Knn(),
    "r2d2": Ridge(penalty=1.0, centered=False),
    "simple_cnaps": Mahalanobis(centered=False),
}


class Learned(NamedTuple):
    """A method that has learned."""

    objective: Any
    episodes: int
    cpu_seconds: float


def measure(options: Options) -> Result:
    """Train each method, and test all on the same episodes."""
    if options.served:
        return measure_served(options)
    if options.heads:
        return measure_heads(options)
    if options.lake:
        return _measure_lake(options)
    torch.set_num_threads(1)
    train, test = read_characters(options.images, "train"), read_characters(options.images, "test")
    validation = read_characters(options.images, "val")
    drawn = {name: _episodes(test, *size, options.tested) for name, size in CELLS.items()}
    encoder = Conv4(width=options.width, image_side=SIDE).build()
    rows: dict[str, Any] = {
        "pixels": _served(Cosine(), _pixels(test), drawn, test),
        "untrained": _served(Cosine(), embed_all(encoder, test.images), drawn, test),
    }
    for method in options.methods:
        learned = _train(options, method, train, validation)
        rows[method] = {
            "episodes": learned.episodes,
            "cpu_seconds": round(learned.cpu_seconds, 1),
            "own": {
                cell: _interval(accuracies(learned.objective, test.images, episodes))
                for cell, episodes in drawn.items()
            },
            "served": _served(
                HEADS.get(method, Cosine()),
                embed_all(learned.objective.encoder.eval(), test.images),
                drawn,
                test,
            ),
        }
        print(f"{method}: {rows[method]}", flush=True)
    return _judge(options, rows)


def _judge(options: Options, rows: dict[str, Any]) -> Result:
    headline, met = [], True
    for method in options.methods:
        own, served = rows[method]["own"], rows[method]["served"]
        headline.append(
            f"{method} {own['5w1s'][0]:.1f} / {own['5w5s'][0]:.1f} % "
            f"(served {served['5w1s'][0]:.1f} / {served['5w5s'][0]:.1f}) "
            f"in {rows[method]['cpu_seconds']:.0f} CPU s"
        )
        goals = GOALS.get(method, (0.0, 0.0))
        if options.quick:
            goals = (QUICK_GOAL, 0.0) if method == "prototypical" else (0.0, 0.0)
        met &= own["5w1s"][0] >= goals[0] and own["5w5s"][0] >= goals[1]
    text = f"{'; '.join(headline)}; untrained {rows['untrained']['5w1s'][0]:.1f} at 5w1s"
    return Result({"methods": rows}, text, met)


def _measure_lake(options: Options) -> Result:
    """The errors of telling characters of one alphabet, having learned from thirty others."""
    torch.set_num_threads(1)
    everything = read_characters(options.images, "background")
    runs = read_runs(options.images)
    rows: dict[str, Any] = {}
    for method in options.methods:
        learned = _train(options, method, everything, None)
        learned.objective.eval()
        errors = [_error(learned.objective, *task) for task in runs]
        rows[method] = {
            "episodes": learned.episodes,
            "cpu_seconds": round(learned.cpu_seconds, 1),
            "error": round(sum(errors) / len(errors), 2),
            "errors": errors,
        }
    text = ", ".join(f"{method} {row['error']:.1f} %" for method, row in rows.items())
    headline = f"20 ways of one shot within an alphabet, error: {text} (people {PEOPLE} %)"
    published = {"people": PEOPLE, **PUBLISHED}
    return Result({"methods": rows, "published": published}, headline, goal_met=True)


@torch.no_grad()
def _error(objective: Any, support: Tensor, query: Tensor, truth: Tensor) -> float:
    """The percentage of drawings of a run whose character is told wrong."""
    prepared = objective.prepare(as_values(torch.cat([support, query])))
    answers = objective.logits(prepared[: len(support), None], prepared[len(support) :])
    return round(100 * float((answers.argmax(dim=1) != truth).float().mean()), 2)


def _train(
    options: Options, method: str, train: Characters, validation: Characters | None
) -> Learned:
    """Learn from the characters to learn from; the best state by some that were not."""
    images, targets, split = _with_validation(train, validation, options.seed)
    kind: Any = learners[method]
    training = start(
        kind(),
        Conv4(width=options.width, image_side=SIDE, seed=options.seed).build(),
        images,
        targets,
        split,
        EpisodeShape(ways=options.ways, shots=(1, 5), queries=QUERIES),
        Recipe(
            epochs=-(-options.episodes // AN_EPOCH),
            rate=options.rate,
            weight_decay=0.0,
            schedule="one_cycle",
            clip_norm=10.0,
            seed=options.seed,
        ),
        episodes_an_epoch=AN_EPOCH,
        fresh=True,
    )
    started = time.process_time()
    for epoch in training:
        spent = time.process_time() - started
        judged = "" if epoch.accuracy is None else f", {100 * epoch.accuracy:.1f} % of validation"
        place = f"{method} {epoch.number}/{epoch.of}"
        print(f"{place}: loss {epoch.loss:.2f}{judged}, {spent:.0f} CPU s", flush=True)
    training.restore_best()
    spent = time.process_time() - started
    return Learned(training.objective, training.epoch * AN_EPOCH, spent)


def _with_validation(
    train: Characters, validation: Characters | None, seed: int
) -> tuple[Tensor, Tensor, LabelSplit]:
    """Images, targets and what they are there for; of validation, some characters."""
    labels = len(train.names)
    if validation is None:
        return train.images, train.targets, LabelSplit(list(range(labels)), [], [])
    chance = Generator().manual_seed(seed)
    chosen = torch.randperm(len(validation.names), generator=chance)[:VALIDATED]
    rows = torch.isin(validation.targets, chosen).nonzero().flatten()
    images = torch.cat([train.images, validation.images[rows]])
    targets = torch.cat([train.targets, labels + validation.targets[rows]])
    return images, targets, LabelSplit(list(range(labels)), (labels + chosen).tolist(), [])


def _episodes(data: Characters, ways: int, shots: int, count: int) -> list[Episode]:
    shape = EpisodeShape(ways=ways, shots=shots, queries=TESTED_QUERIES)
    episodes = Episodes(data.targets, range(len(data.names)), shape)
    chance = Generator().manual_seed(0)
    return [episodes.draw(chance) for _ in range(count)]


def _served(
    head: Head, embeddings: Tensor, drawn: dict[str, list[Episode]], data: Characters
) -> dict[str, list[float]]:
    """What a head of the product answers, on stored embeddings."""
    figures = {}
    for cell, episodes in drawn.items():
        right = correct_answers(head, embeddings, episodes, len(data.names)).sum(dim=1)
        asked = queries_asked(episodes, len(data.names)).sum(dim=1)
        figures[cell] = _interval(right / asked)
    return figures


def _pixels(data: Characters) -> Tensor:
    ink = 1 - data.images[:, 0].flatten(1).float() / 255
    return F.normalize(ink, dim=1)


def _interval(accuracies: Tensor) -> list[float]:
    """The mean over episodes in percent, and half of its 95 % interval, as papers have it."""
    half = 1.96 * float(accuracies.std()) / len(accuracies) ** 0.5
    return [round(100 * float(accuracies.mean()), 2), round(100 * half, 2)]


if __name__ == "__main__":
    run(
        measure,
        option("--images", type=Path, required=True, help="folder of Omniglot"),
        option("--methods", ENCODER_METHODS, nargs="*", quick=["prototypical"]),
        option("--episodes", 2000, quick=600, help="to learn from"),
        option("--ways", 20, help="of an episode to learn from"),
        option("--width", 32, help="channels of the network"),
        option("--rate", 3e-3),
        option("--tested", 600, quick=200, help="episodes to test with, of each size"),
        option("--seed", 0),
        option("--lake", False, action="store_true", help="the runs within an alphabet"),
        option("--served", False, action="store_true", help="over HTTP, from an empty server"),
        option("--heads", False, action="store_true", help="heads on features that stay"),
        option("--head-rate", 1e-3),
        option("--encoder-episodes", 400, quick=100, help="that made these, with --heads"),
        option("--labels", 200, quick=60, help="of earlier work, with --served"),
    )
