"""Whether intervals of accuracy over episodes hold what they say, and what an evaluation costs.

Data sets are drawn around the same centres, one a label, so that the accuracy which new images
would have is known; an interval of 95 % should hold it in as many of the cases. The interval over
episodes, which papers print, is shown beside that over images. Then the centres are drawn anew as
well, for what new labels would have, beside the interval over labels.

Over HTTP: seconds of `cosine` and of `auto`, and the memory of the server at its peak when it is
asked for as much as it takes, on made-up embeddings of 1,280 components.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from bench.data import encoded
from bench.figures import mean, progress, timed
from bench.harness import Options, Result, option, run
from bench.processes import memory, new_server
from handful.calls import Plugin
from handful.client import Handful
from models.evaluation.intervals import Interval
from models.heads.kinds import heads
from models.heads.kinds.cosine import Cosine
from models.metalearning.evaluation import EpisodicEvaluation
from models.metalearning.evaluation.answers import EpisodeModel

LABELS, IMAGES, DIMENSIONS, NOISE = 20, 40, 32, 1.5
WAYS, SHOTS, QUERIES = 5, 5, 15
HEAD = Cosine(temperature=0.1)
INTERVALS = ("over_episodes", "over_images", "over_labels")
LEAST, MOST = 0.93, 0.97  # of the data sets in which the interval over images holds
# What tells the accuracy, where labels stay and where they are drawn anew: data sets, images of
# each label, and episodes.
KNOWN_SAME, KNOWN_NEW = (20, 1000, 400), (300, 100, 64)
COSINE_EPISODES, COSINE_S, OVER_S, MEGABYTES = 600, 2.0, 1.0, 300
MOST_WAYS, MOST_SHOTS, MOST_QUERIES = 20, 25, 50  # of the largest episodes
PROJECT = "episodes"


class Coverage(NamedTuple):
    """How often intervals held an accuracy, and how wide they were."""

    known: float
    held: dict[str, float]  # by interval, of the data sets
    points: dict[str, float]  # mean width


def measure(options: Options) -> Result:
    """Draw data sets, then ask a server."""
    torch.set_num_threads(1)  # tensors are tiny
    generator = Generator().manual_seed(options.seed)
    centres = torch.randn(LABELS, DIMENSIONS, generator=generator)
    rows = {
        "new images": _coverage(lambda: centres, KNOWN_SAME, options, generator),
        "new labels": _coverage(
            lambda: torch.randn(LABELS, DIMENSIONS, generator=generator),
            KNOWN_NEW,
            options,
            generator,
        ),
    }
    served = _serve(options.seconds)
    held = rows["new images"].held
    goal_met = (
        LEAST <= held["over_images"] <= MOST
        and served["cosine_s"] <= COSINE_S
        and served["auto_s"] <= options.seconds + OVER_S
        and served["megabytes"] <= MEGABYTES
    )
    headline = (
        f"of {options.sets} data sets, the interval over images holds the accuracy of new images "
        f"in {100 * held['over_images']:.1f} %, that over episodes in "
        f"{100 * held['over_episodes']:.1f} %; {COSINE_EPISODES} episodes of cosine over HTTP "
        f"{served['cosine_s']:.2f} s, auto {served['auto_s']:.1f} s when asked for "
        f"{options.seconds:g}, {served['megabytes']:.0f} MiB at most"
    )
    figures = {
        name: {
            "known accuracy": round(row.known, 4),
            **{f"{interval}, held": value for interval, value in row.held.items()},
            **{f"{interval}, points wide": round(100 * w, 1) for interval, w in row.points.items()},
        }
        for name, row in rows.items()
    }
    return Result({"intervals": figures, "served": served}, headline, goal_met)


def _coverage(
    draw_centres: Callable[[], Tensor],
    known_by: tuple[int, int, int],
    options: Options,
    generator: Generator,
) -> Coverage:
    """Of data sets around centres that are drawn for each."""
    sets, images, episodes = known_by
    accuracies = []
    for seed in progress(range(sets), "data sets that tell the accuracy", every=100):
        data = _data_set(draw_centres(), images, generator)
        accuracies.append(_evaluated(data, episodes, seed)["over_episodes"].value)
    known = mean(accuracies)
    held, widths = dict.fromkeys(INTERVALS, 0), dict.fromkeys(INTERVALS, 0.0)
    for seed in progress(range(options.sets), "data sets", every=50):
        data = _data_set(draw_centres(), IMAGES, generator)
        figures = _evaluated(data, options.episodes, seed)
        for name in INTERVALS:
            _, low, high = figures[name]
            held[name] += low <= known <= high
            widths[name] += high - low
    return Coverage(
        known,
        {name: count / options.sets for name, count in held.items()},
        {name: width / options.sets for name, width in widths.items()},
    )


def _data_set(centres: Tensor, images: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Embeddings of as many images of each label, and the label of each."""
    targets = torch.arange(len(centres)).repeat_interleave(images)
    noise = NOISE * torch.randn(len(targets), centres.shape[1], generator=generator)
    return F.normalize(centres[targets] + noise, dim=1).half(), targets


def _evaluated(data: tuple[Tensor, Tensor], episodes: int, seed: int) -> dict[str, Interval]:
    """The three intervals by their names."""
    embeddings, targets = data
    evaluation = EpisodicEvaluation(
        [EpisodeModel(HEAD, embeddings)],
        targets,
        list(range(LABELS)),
        ways=WAYS,
        shots=(SHOTS,),
        queries=QUERIES,
        count=episodes,
        seed=seed,
    )
    for _ in evaluation.steps():
        pass
    (figures,) = evaluation.figures()[0].models
    intervals = figures.over_episodes, figures.over_images, figures.over_labels
    return {name: interval for name, interval in zip(INTERVALS, intervals, strict=True) if interval}


def _serve(seconds: float) -> dict[str, float]:
    """What a server takes for evaluations; its network takes no time."""
    with new_server(network="null:0.1") as server, Handful(server.url) as client:
        _prepare(client)
        Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # its peak counts from now
        idle = memory("VmRSS", server.pid)
        ask = functools.partial(client.evaluate, PROJECT)
        ask(heads=["cosine"], episodes=2)  # as after a start: embeddings are read
        cosine, cosine_s = timed(
            lambda: ask(heads=["cosine"], episodes=COSINE_EPISODES, seconds=60)
        )
        auto, auto_s = timed(lambda: ask(heads=["auto"], episodes=100_000, seconds=seconds))
        everything: list[Plugin] = [*heads, {"name": "ridge", "options": {"features": 2000}}]
        largest, largest_s = timed(
            lambda: ask(
                heads=everything,
                ways=MOST_WAYS,
                shots=[1, 5, MOST_SHOTS],
                queries=MOST_QUERIES,
                seconds=seconds,
            )
        )
        return {
            "cosine_s": round(cosine_s, 2),
            "cosine_episodes": cosine.done,
            "auto_s": round(auto_s, 2),
            "auto_episodes": auto.done,
            "largest_s": round(largest_s, 2),
            "largest_episodes": largest.done,
            "megabytes": round(memory("VmHWM", server.pid) - idle, 1),
        }


def _prepare(client: Handful) -> None:
    """A project with images enough for the largest episodes: a pattern a label, and noise."""
    client.create_project(PROJECT)
    generator = np.random.default_rng(0)
    for label in progress(range(MOST_WAYS), "labels uploaded", every=10):
        pattern = generator.normal(0, 20, (16, 16, 3))
        files = [
            encoded(128 + pattern + generator.normal(0, 40, pattern.shape), "PNG")
            for _ in range(MOST_QUERIES + MOST_SHOTS)
        ]
        client.add_support(PROJECT, f"label {label}", files)


if __name__ == "__main__":
    run(
        measure,
        option("--sets", 200),
        option("--episodes", 600, quick=100),
        option("--seconds", 10.0, quick=5.0, help="that `auto` and the largest evaluation get"),
        option("--seed", 0),
    )
