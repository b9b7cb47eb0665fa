"""Whether labeled images should have an encoder of their own, in prototypical networks.

`shared` embeds all images by one network, `own` labeled images by one and queries by another, both
from the same weights; `shared, twice` has twice the episodes. Once images are as they are, where
`own` costs as much as twice the episodes of one; and once the queries are coarse and inverted, so
that both kinds look as different as photos of a catalogue and of a warehouse, and an episode costs
all the same. Tested on the same episodes of characters that nobody learned; gains are paired.
"""

import argparse
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from app.inference.process import keep_freed_memory
from bench.harness import Options, Result, option, run
from bench.meta_training import draw_episodes, interval, learn
from bench.omniglot import Characters, read_characters
from models.encoders import Encoder
from models.metalearning import Episodic, accuracies

CELLS = {"5w1s": (5, 1), "5w5s": (5, 5), "20w1s": (20, 1), "20w5s": (20, 5)}
COARSE = 4  # pixels that become one
ARMS = {"shared": (False, 1), "own": (True, 1), "shared, twice": (False, 2)}


class TwoEncoders:
    """Prototypical networks whose queries have an encoder of their own, or only look different."""

    fewest_labels: ClassVar[int] = 20
    unsuited: ClassVar[str] = ""

    def __init__(self, *, own: bool, coarse: bool) -> None:
        self.own, self.coarse = own, coarse

    def build(self, encoder: Encoder, *, fresh: bool) -> Episodic:
        return _Objective(encoder, self, fresh=fresh)


class _Objective(Episodic):
    def __init__(self, encoder: Encoder, options: TwoEncoders, *, fresh: bool) -> None:
        super().__init__(encoder, fresh=fresh)
        self.coarse = options.coarse
        self.of_labeled = deepcopy(encoder) if options.own else encoder

    def prepare(self, images: Tensor) -> Tensor:
        """What either makes of an image, (B, 2, D)."""
        if self.of_labeled is not self.encoder:
            asked = _coarse(images) if self.coarse else images
            both = [self.of_labeled.features(images), self.encoder.features(asked)]
        elif self.coarse:  # at once, so that norms have one statistic of both kinds
            both = list(self.encoder.features(torch.cat([images, _coarse(images)])).chunk(2))
        else:
            both = [self.encoder.features(images)] * 2
        return torch.stack(both, dim=1)

    def logits(self, support: Tensor, query: Tensor) -> Tensor:
        """-|g(x) - c|^2, with c the mean of f over the shots of a label."""
        prototypes = support[:, :, 0].mean(dim=1)
        return -torch.cdist(query[:, 1], prototypes).square()


def measure(options: Options) -> Result:
    """Train each arm on both kinds of queries, and compare them."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as jobs do
    parts = [read_characters(options.images, part) for part in ("train", "val", "test")]
    rows = {
        name: _compare(options, parts, coarse=coarse)
        for name, coarse in (("alike", False), ("coarse queries", True))
    }
    gains = [gain[0] for row in rows.values() for gain in row["own"]["ahead of twice"].values()]
    headline = (
        f"an encoder of its own for labeled images is {min(gains):+.1f} to {max(gains):+.1f} "
        "points ahead of one that has twice the episodes"
    )
    return Result({"queries": rows}, headline, goal_met=True)


def _compare(options: Options, parts: list[Characters], *, coarse: bool) -> dict[str, Any]:
    train, validation, test = parts
    drawn = {name: draw_episodes(test, *size, options.tested) for name, size in CELLS.items()}
    answers: dict[str, dict[str, list[Tensor]]] = {}
    spent: dict[str, float] = {}
    for arm, (own, times) in ARMS.items():
        answers[arm] = {cell: [] for cell in drawn}
        spent[arm] = 0.0
        for seed in range(options.seeds):
            settings = argparse.Namespace(**{**vars(options), "episodes": options.episodes * times})
            method = TwoEncoders(own=own, coarse=coarse)
            learned = learn(method, train, validation, settings, seed=seed, name=arm)
            spent[arm] += learned.cpu_seconds
            for cell, episodes in drawn.items():
                answers[arm][cell].append(accuracies(learned.objective, test.images, episodes))
    means = {
        arm: {cell: torch.stack(seeds).mean(dim=0) for cell, seeds in cells.items()}
        for arm, cells in answers.items()
    }
    return {
        arm: {
            "cpu_seconds": round(spent[arm], 1),
            "accuracy": {cell: interval(values) for cell, values in cells.items()},
            "ahead of twice": {
                cell: interval(values - means["shared, twice"][cell])
                for cell, values in cells.items()
            },
            "by_seed": {
                cell: [interval(values)[0] for values in seeds]
                for cell, seeds in answers[arm].items()
            },
        }
        for arm, cells in means.items()
    }


def _coarse(images: Tensor) -> Tensor:
    """Of a few large pixels, dark and light exchanged."""
    small = F.avg_pool2d(1 - images, COARSE)
    return F.interpolate(small, size=images.shape[-2:], mode="nearest")


if __name__ == "__main__":
    run(
        measure,
        option("--images", type=Path, required=True, help="folder of Omniglot"),
        option("--episodes", 400, quick=50, help="to learn from"),
        option("--ways", 20, help="of an episode to learn from"),
        option("--width", 32, help="channels of the network"),
        option("--rate", 3e-3),
        option("--tested", 600, quick=50, help="episodes to test with, of each size"),
        option("--seeds", 2, quick=1),
    )
