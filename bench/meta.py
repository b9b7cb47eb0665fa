"""Ways to meta-learn, from random weights on Omniglot, tested on characters that they never saw.

All have the split of Vinyals et al. (2016) with turns, the same network, and the same episodes to
test with; `own` is the method's own answer, `served` that of the product's head on the embeddings
of unit length that the service stores. Of these, no answer depends on other queries; of `leaking`
it does: its batch norms take the statistics of all images of an episode, as papers often have it.
Beside them: pixels, and the network before it learned. CPU seconds are of one thread.

One model answers all, having seen 1 to 5 shots; with `--per-shots` one has learned with as many as
it is tested with. `--seeds` trains so many, whose accuracy is the mean.

`--heads` is about methods that learn a head: on features that stay, of an encoder that learned
other characters, beside prototypes on the same episodes; whether the guard lets them serve; and how
fast they refit, answer and rank with 1,280 dimensions, 10 labels of 5 shots, and a million images.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from app.inference.process import keep_freed_memory
from bench.harness import Options, Result, option, run
from bench.meta_heads import measure_heads
from bench.meta_served import measure_served
from bench.meta_training import SHOTS, draw_episodes, interval, learn
from bench.omniglot import SIDE, Characters, read_characters, read_runs
from models.encoders import Encoder
from models.encoders.architectures.conv4 import Conv4
from models.encoders.support_norm import Normalised, normalise_by_support
from models.finetuning import embed_all
from models.heads import Head
from models.heads.kinds.cosine import Cosine
from models.heads.kinds.knn import Knn
from models.heads.kinds.mahalanobis import Mahalanobis
from models.heads.kinds.ridge import Ridge
from models.metalearning import MetaMethod, accuracies, inner_loop
from models.metalearning.episodes import Episode
from models.metalearning.guard import correct_answers, queries_asked
from models.metalearning.learners import learners
from models.training.loop import as_values

ENCODER_METHODS = [name for name, kind in learners.items() if isinstance(kind(), MetaMethod)]
CELLS = {"5w1s": (5, 1), "5w5s": (5, 5), "20w1s": (20, 1), "20w5s": (20, 5)}
GOALS = {  # percent at 5w1s and 5w5s
    "prototypical": (97.0, 99.0),
    "matching": (94.0, 97.0),
    "r2d2": (94.0, 98.5),
    "simple_cnaps": (94.0, 98.5),
    "maml": (90.0, 94.0),
    "lstm_learner": (90.0, 95.0),
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


def measure(options: Options) -> Result:
    """Train each method, and test all on the same episodes."""
    if options.served:
        return measure_served(options)
    if options.heads:
        return measure_heads(options)
    if options.lake:
        return _measure_lake(options)
    torch.set_num_threads(1)
    keep_freed_memory()  # as jobs do
    train, test = read_characters(options.images, "train"), read_characters(options.images, "test")
    validation = read_characters(options.images, "val")
    drawn = {name: draw_episodes(test, *size, options.tested) for name, size in CELLS.items()}
    encoder = Conv4(width=options.width, image_side=SIDE).build()
    rows: dict[str, Any] = {
        "pixels": _served(Cosine(), _pixels(test), drawn, test),
        "untrained": _served(Cosine(), embed_all(encoder, test.images), drawn, test),
    }
    for method in options.methods:
        rows[method] = _row(options, method, (train, validation, test), drawn)
        print(f"{method}: {rows[method]}", flush=True)
    return _judge(options, rows)


def _row(
    options: Options,
    method: str,
    parts: tuple[Characters, Characters, Characters],
    drawn: dict[str, list[Episode]],
) -> dict[str, Any]:
    """Accuracies of a method, over all seeds, and what it cost to learn."""
    train, validation, test = parts
    shots = [(1, 1), (5, 5)] if options.per_shots else [SHOTS]
    models = [
        {
            seen: learn(_method(method), train, validation, options, seed=seed, shots=seen)
            for seen in shots
        }
        for seed in range(options.seed, options.seed + options.seeds)
    ]
    answers: dict[str, dict[str, list[Tensor]]] = {
        name: {cell: [] for cell in drawn} for name in ("own", "served", "leaking")
    }
    for learned in models:
        for cell, episodes in drawn.items():
            objective = learned[
                min(shots, key=lambda seen: abs(seen[1] - CELLS[cell][1]))
            ].objective
            own = _own(objective, test, episodes)
            answers["own"][cell].append(own)
            with leaking_norms(objective.encoder):
                answers["leaking"][cell].append(_own(objective, test, episodes, together=True))
            embeddings = embed_all(objective.encoder.eval(), test.images)
            head = HEADS.get(method, Cosine())
            answers["served"][cell].append(_accuracies(head, embeddings, episodes, test))
    row: dict[str, Any] = {
        "episodes": sum(model.episodes for learned in models for model in learned.values()),
        "cpu_seconds": round(sum(m.cpu_seconds for learned in models for m in learned.values()), 1),
    }
    for name, cells in answers.items():
        row[name] = {cell: interval(torch.cat(seeds)) for cell, seeds in cells.items()}
    if options.seeds > 1:
        row["by_seed"] = {
            cell: [interval(accuracy)[0] for accuracy in seeds]
            for cell, seeds in answers["own"].items()
        }
    return row


def _own(
    objective: Any, test: Characters, episodes: list[Episode], *, together: bool = False
) -> Tensor:
    """The method's own accuracy in each episode.

    Args:
        together: the images of an episode are embedded with no others.
    """
    groups = [[episode] for episode in episodes] if together else [episodes]
    return torch.cat([accuracies(objective, test.images, group) for group in groups])


@contextmanager
def leaking_norms(encoder: Encoder) -> Iterator[None]:
    """Batch norms take the statistics of all images that come together, queries too."""

    def by_all(norm: _BatchNorm, maps: Tensor, _: int = 0) -> Normalised:
        return normalise_by_support(norm, maps, len(maps))

    def forward(norm: _BatchNorm, maps: Tensor) -> Tensor:
        return by_all(norm, maps).maps

    norms = [module for module in encoder.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        setattr(norm, "forward", partial(forward, norm))  # noqa: B010
    with mock.patch.object(inner_loop, "normalise_by_support", by_all):
        yield
    for norm in norms:
        norm.__dict__.pop("forward", None)  # inner loops have taken it away


def _method(name: str) -> MetaMethod:
    method = learners[name]()
    assert isinstance(method, MetaMethod)
    return method


def _judge(options: Options, rows: dict[str, Any]) -> Result:
    headline, met = [], True
    for method in options.methods:
        row = rows[method]
        own = row["own"]
        ours, served, leaking = (
            f"{row[name]['5w1s'][0]:.1f} / {row[name]['5w5s'][0]:.1f}"
            for name in ("own", "served", "leaking")
        )
        headline.append(
            f"{method} {ours} % (served {served}, with statistics of all queries {leaking}) "
            f"in {row['cpu_seconds']:.0f} CPU s"
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
        learned = learn(_method(method), everything, None, options, seed=options.seed)
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


def _served(
    head: Head, embeddings: Tensor, drawn: dict[str, list[Episode]], data: Characters
) -> dict[str, list[float]]:
    """What a head of the product answers, on stored embeddings."""
    return {
        cell: interval(_accuracies(head, embeddings, episodes, data))
        for cell, episodes in drawn.items()
    }


def _accuracies(
    head: Head, embeddings: Tensor, episodes: list[Episode], data: Characters
) -> Tensor:
    right = correct_answers(head, embeddings, episodes, len(data.names)).sum(dim=1)
    return right / queries_asked(episodes, len(data.names)).sum(dim=1)


def _pixels(data: Characters) -> Tensor:
    ink = 1 - data.images[:, 0].flatten(1).float() / 255
    return F.normalize(ink, dim=1)


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
        option("--seeds", 1, help="models of a method, of seeds from --seed on"),
        option("--per-shots", False, action="store_true", help="a model for each number of shots"),
        option("--lake", False, action="store_true", help="the runs within an alphabet"),
        option("--served", False, action="store_true", help="over HTTP, from an empty server"),
        option("--heads", False, action="store_true", help="heads on features that stay"),
        option("--head-rate", 1e-3),
        option("--encoder-episodes", 400, quick=100, help="that made these, with --heads"),
        option("--labels", 200, quick=60, help="of earlier work, with --served"),
    )
