"""Heads that learned to learn, on features that stay; beside prototypes, and as they serve."""

import time
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from app.inference.process import keep_freed_memory
from bench.data import made_up
from bench.figures import spread, timed
from bench.harness import Options, Result
from bench.omniglot import SIDE, TURNS, Characters, Part, read_characters
from bench.processes import measured
from models.acquisition import Pool
from models.acquisition.strategies.margin import Margin
from models.encoders import Encoder
from models.encoders.architectures.conv4 import Conv4
from models.evaluation.comparison import compare_on_episodes
from models.finetuning import embed_all
from models.heads import FittedHead, Head, center_and_normalize
from models.heads.kinds.blend import Blend
from models.heads.kinds.cosine import Cosine
from models.heads.network import HeadNetwork, NetworkHead
from models.metalearning import start
from models.metalearning.episodes import Episode, Episodes, EpisodeShape, LabelSplit
from models.metalearning.guard import correct_answers, queries_asked
from models.metalearning.heads import HeadMethod, start_head
from models.metalearning.intervals import difference_over_episodes
from models.metalearning.learners import learners
from models.metalearning.learners.prototypical import Prototypical
from models.training.recipe import Recipe

WAYS, SHOTS = (5, 20, 50), (1, 5)
QUERIES, TESTED_QUERIES = 5, 15  # of each label, in training and test
AN_EPOCH = 100  # episodes
ENCODER_WAYS, GUARD_WAYS = 20, 20
GUARD_EPISODES, CONFIDENCE = 100, 0.9  # as `metatrain` has them
BEHIND = 0.3  # points, at most, behind prototypes; or the guard refuses
METHODS = [name for name, method in learners.items() if isinstance(method(), HeadMethod)]
LINEAR = ("feat", "projections", "anil", "lstm_head")  # whose answers are one product
LABELS, LABEL_SHOTS, DIMENSIONS = 10, 5, 1280  # of a project
IMAGES, BUDGET, QUERIED = 1_000_000, 100, 64
MEAN_OF = 10_000  # images
REPETITIONS, ANSWERS, RANKINGS = 40, 400, 3
FIT_MS, RANK_SECONDS, RANK_MB = 50.0, 60.0, 1500
CLASSIFY, RANK = 1.05, 1.1  # times what `cosine` and `blend` take, at most
PLAIN = Cosine(centered=True, temperature=0.1)  # which answers as with any temperature


class Features(NamedTuple):
    """Of some characters."""

    embeddings: Tensor  # as the encoder makes them
    targets: Tensor
    labels: list[int]  # of the targets

    @property
    def centred(self) -> Tensor:
        """By their mean, and again of unit length, as heads see them."""
        return center_and_normalize(self.embeddings, self.embeddings.mean(dim=0))


def measure_heads(options: Options) -> Result:
    """Train an encoder, heads on its features of other characters, and judge these on new ones."""
    torch.set_num_threads(1)
    served = _serving(IMAGES // 50 if options.quick else IMAGES)
    print(f"serving: {served}", flush=True)
    encoder, seconds = _train_encoder(options)
    learned = _features(encoder, options, "train", 1)
    validating, judging = (_features(encoder, options, "val", half) for half in range(2))
    test = _features(encoder, options, "test")
    drawn = {
        f"{ways}w{shots}s": _draw(test, ways, shots, options.tested)
        for ways in WAYS
        for shots in SHOTS
    }
    plain = NetworkHead(network=_untrained(METHODS[0], test.embeddings.shape[1]), temperature=1.0)
    before = {cell: _shares(plain, test, episodes) for cell, episodes in drawn.items()}
    cosine = {cell: _shares(PLAIN, test, episodes) for cell, episodes in drawn.items()}
    rows: dict[str, Any] = {
        "prototypes": {"accuracy": _percents(before)},
        "cosine": {"accuracy": _percents(cosine)},
    }
    headline, met = [], True
    for method in METHODS:
        head, figures = _train_head(options, method, learned, validating)
        shares = {cell: _shares(head, test, episodes) for cell, episodes in drawn.items()}
        gains = {cell: _gain(shares[cell], before[cell]) for cell in drawn}
        probability = _least_probability(head, (plain, PLAIN), judging)
        serves = probability >= CONFIDENCE
        least, most = (extreme(gain[0] for gain in gains.values()) for extreme in (min, max))
        met &= least >= -BEHIND or not serves
        rows[method] = {
            "accuracy": _percents(shares),
            "ahead_of_prototypes": gains,
            "guard": {"probability": probability, "serves": serves},
            **figures,
        }
        print(f"{method}: {rows[method]}", flush=True)
        verdict = "serves" if serves else "refused"
        headline.append(f"{method} {least:+.2f} to {most:+.2f} points of prototypes, {verdict}")
    met &= _promises_kept(served)
    text = (
        f"{'; '.join(headline)}; refit {', '.join(_fits(served))}; "
        f"{served['ranked']} images ranked in {', '.join(_ranks(served))}"
    )
    return Result(
        {"heads": rows, "encoder_cpu_seconds": round(seconds, 1), "serving": served}, text, met
    )


def _train_encoder(options: Options) -> tuple[Encoder, float]:
    """A prototypical one, by every second character of those to learn from."""
    characters = read_characters(options.images, "train")
    labels = _half(characters, 0, TURNS)
    rows = torch.isin(characters.targets, torch.tensor(labels)).nonzero().flatten()
    training = start(
        Prototypical(),
        Conv4(width=options.width, image_side=SIDE, seed=options.seed).build(),
        characters.images[rows],
        characters.targets[rows],
        LabelSplit(labels, [], []),
        EpisodeShape(ways=ENCODER_WAYS, shots=SHOTS, queries=QUERIES),
        _recipe(options, options.encoder_episodes, options.rate),
        episodes_an_epoch=AN_EPOCH,
        fresh=True,
    )
    started = time.process_time()
    for epoch in training:
        spent = time.process_time() - started
        print(
            f"encoder {epoch.number}/{epoch.of}: loss {epoch.loss:.2f}, {spent:.0f} CPU s",
            flush=True,
        )
    return training.objective.encoder.eval(), time.process_time() - started


def _train_head(
    options: Options, method: str, learned: Features, validating: Features
) -> tuple[Head, dict[str, Any]]:
    """Of as many ways as are tested; the best state by labels to validate with, or the first."""
    kind: Any = learners[method]
    embeddings = torch.cat([learned.centred, validating.centred])
    offset = int(learned.targets.max()) + 1
    training = start_head(
        kind(),
        embeddings,
        torch.cat([learned.targets, validating.targets + offset]),
        LabelSplit(learned.labels, [label + offset for label in validating.labels], []),
        EpisodeShape(ways=(min(WAYS), max(WAYS)), shots=SHOTS, queries=QUERIES),
        _recipe(options, options.episodes, options.head_rate),
        episodes_an_epoch=AN_EPOCH,
    )
    started = time.process_time()
    judged = []
    for epoch in training:
        spent = time.process_time() - started
        judged.append(round(100 * (epoch.accuracy or 0), 2))
        place = f"{method} {epoch.number}/{epoch.of}"
        print(f"{place}: loss {epoch.loss:.3f}, {judged[-1]:.2f} %, {spent:.0f} CPU s", flush=True)
    training.restore_best()
    network = training.objective.network
    figures = {
        "parameters": sum(value.numel() for value in network.parameters()),
        "episodes": training.epoch * AN_EPOCH,
        "cpu_seconds": round(time.process_time() - started, 1),
        "validation": judged,
    }
    return NetworkHead(network=network.eval(), temperature=1.0), figures


def _recipe(options: Options, episodes: int, rate: float) -> Recipe:
    return Recipe(
        epochs=-(-episodes // AN_EPOCH),
        rate=rate,
        weight_decay=0.0,
        schedule="one_cycle",
        clip_norm=10.0,
        seed=options.seed,
    )


def _half(characters: Characters, half: int, turns: int) -> list[int]:
    """Every second label; a character and its turns are in the same half."""
    upright = len(characters.names) // turns
    return [n for n in range(len(characters.names)) if n % upright % 2 == half]


def _features(encoder: Encoder, options: Options, part: Part, half: int | None = None) -> Features:
    """Of upright characters, but that those to learn from are also turned."""
    turned = part == "train"
    characters = read_characters(options.images, part, turns=turned)
    labels = list(range(len(characters.names)))
    if half is not None:
        labels = _half(characters, half, TURNS if turned else 1)
    rows = torch.isin(characters.targets, torch.tensor(labels)).nonzero().flatten()
    return Features(embed_all(encoder, characters.images[rows]), characters.targets[rows], labels)


def _draw(features: Features, ways: int, shots: int, count: int) -> list[Episode]:
    shape = EpisodeShape(ways=ways, shots=shots, queries=TESTED_QUERIES)
    episodes = Episodes(features.targets, features.labels, shape)
    generator = Generator().manual_seed(0)
    return [episodes.draw(generator) for _ in range(count)]


def _shares(head: Head, features: Features, episodes: Sequence[Episode]) -> Tensor:
    """The share of queries that a head gets right in each episode."""
    classes = max(features.labels) + 1
    right = correct_answers(head, features.embeddings, episodes, classes).sum(dim=1)
    return right / queries_asked(episodes, classes).sum(dim=1)


def _percents(shares: dict[str, Tensor]) -> dict[str, float]:
    return {cell: round(100 * float(values.mean()), 2) for cell, values in shares.items()}


def _gain(candidate: Tensor, before: Tensor) -> list[float]:
    """The mean difference over the same episodes, in points, and its 95 % interval."""
    return [round(100 * value, 2) for value in difference_over_episodes(candidate, before)]


def _least_probability(head: Head, rivals: Sequence[Head], features: Features) -> float:
    """That a head is better, as the guard of `metatrain` asks it, on labels of its own."""
    classes = max(features.labels) + 1
    probabilities = []
    for shots in SHOTS:
        episodes = _draw(features, GUARD_WAYS, shots, GUARD_EPISODES)
        asked = queries_asked(episodes, classes)
        candidate, *others = (
            correct_answers(part, features.embeddings, episodes, classes)
            for part in (head, *rivals)
        )
        probabilities += [
            compare_on_episodes(candidate, other, asked).probability for other in others
        ]
    return round(min(probabilities), 3)


def _serving(images: int) -> dict[str, Any]:
    """How fast heads that learned nothing refit, answer and rank; CPU time of one thread."""
    keep_freed_memory()  # as the service does
    vectors, truth = made_up(images, DIMENSIONS, LABELS, shots=LABEL_SHOTS, noise=1.5)
    labeled = torch.arange(images - LABELS * LABEL_SHOTS, images)
    free, mean = torch.arange(int(labeled[0])), vectors[:MEAN_OF].float().mean(dim=0)
    heads: dict[str, Head] = {"cosine": Cosine(centered=True), "blend": Blend()}
    heads |= {name: NetworkHead(network=_untrained(name)) for name in METHODS}
    rows: dict[str, Any] = {}
    fitted = {}
    for name, head in heads.items():
        support = vectors[labeled], truth[labeled], LABELS, mean
        fits = [timed(partial(head.fit, *support), time.process_time) for _ in range(REPETITIONS)]
        fitted[name] = fits[0][0]
        rows[name] = {"fit_ms": spread([1e3 * seconds for _, seconds in fits], 1)}
    for name, milliseconds in _interleaved(fitted, vectors[:QUERIED]).items():
        rows[name]["classify_ms"] = spread(milliseconds, 3)
    for name in [n for n in heads if n != "cosine"] * RANKINGS:
        pool = Pool(vectors, free, fitted[name].probabilities)
        ranking = partial(Margin().rank, pool, BUDGET)
        (_, spent), seconds, megabytes = measured(partial(timed, ranking, time.process_time))
        for figure, value in (
            ("rank_cpu_seconds", spent), ("rank_seconds", seconds), ("rank_mb", megabytes)
        ):  # fmt: skip
            rows[name].setdefault(figure, []).append(value)
    for row in rows.values():
        row |= {figure: spread(row[figure], 2) for figure in row if figure.startswith("rank")}
    return {"ranked": len(free), "queries": QUERIED, "by_head": rows}


def _untrained(name: str, dimensions: int = DIMENSIONS) -> HeadNetwork:
    kind: Any = learners[name]
    network: HeadNetwork = kind().network(dimensions)
    return network.eval()


def _interleaved(fitted: dict[str, FittedHead], queries: Tensor) -> dict[str, list[float]]:
    """Milliseconds to answer queries, by head, in turn, so that all meet the same load.

    Turns are in random order: who follows a head that fills the cache is slower for it.
    """
    milliseconds: dict[str, list[float]] = {name: [] for name in fitted}
    order, chance = list(fitted), Random(0)
    for _ in range(ANSWERS):
        chance.shuffle(order)
        for name in order:
            _, seconds = timed(partial(fitted[name].probabilities, queries), time.process_time)
            milliseconds[name].append(1e3 * seconds)
    return milliseconds


def _promises_kept(served: dict[str, Any]) -> bool:
    rows = served["by_head"]
    linear, blend = [rows[name] for name in LINEAR], rows["blend"]
    return (
        all(rows[name]["fit_ms"]["median"] <= FIT_MS for name in METHODS)
        and all(rows[name]["rank_seconds"]["median"] <= RANK_SECONDS for name in METHODS)
        and all(rows[name]["rank_mb"]["highest"] <= RANK_MB for name in METHODS)
        and all(
            row["classify_ms"]["median"] <= CLASSIFY * rows["cosine"]["classify_ms"]["median"]
            and row["rank_cpu_seconds"]["median"] <= RANK * blend["rank_cpu_seconds"]["median"]
            for row in linear
        )
    )


def _fits(served: dict[str, Any]) -> list[str]:
    rows = served["by_head"]
    return [f"{name} {rows[name]['fit_ms']['median']:.0f} ms" for name in METHODS]


def _ranks(served: dict[str, Any]) -> list[str]:
    rows = served["by_head"]
    return [
        f"{name} {rows[name]['rank_cpu_seconds']['median']:.1f} CPU s"
        for name in ("blend", *METHODS)
    ]
