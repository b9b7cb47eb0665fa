"""Small tasks of held-out groups and labels, and what heads and moved centroids make of them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from models.evaluation.comparison import redrawn_gains
from models.generation import Target, direction
from models.heads import Head
from models.heads.kinds.blend import Blend
from models.heads.kinds.cosine import EXPECTED_CENTERED

WEIGHTS = (0.25, 0.5, 0.75)


WAYS, QUERIES = 10, 10  # at most; images of each label
TASKS = 60  # of each number of shots; every second one judges what the others choose
FEWEST_IMAGES = 40  # of labels that tasks can be drawn from, to choose by


class Task(NamedTuple):
    """Images of some labels to learn from and to judge with; row n of each is of class n."""

    labels: Int[Tensor, " C"]
    support: Int[Tensor, "C K"]
    query: Int[Tensor, "C J"]


class Answers(NamedTuple):
    """What was right in the tasks of a number of shots, by label."""

    asked: Float[Tensor, "R C"]
    right: dict[str, Float[Tensor, "R C"]]  # by head; moved centroids by `candidate`


def candidate(name: str, weight: float) -> str:
    """What answers of centroids moved by some groups are filed under."""
    return f"{name} {weight:g}"


def draw_tasks(targets: Int[Tensor, " M"], shots: int, seed: int) -> list[Task]:
    """Tasks of so many shots; none where the labels with one more image are too few.

    Args:
        targets: from 0; less than 0: of no label.
    """
    generator = Generator().manual_seed(seed)
    sizes = torch.bincount(targets[targets >= 0])
    labels = (sizes > shots).nonzero().flatten()
    if len(labels) < 2 or int(sizes[labels].sum()) < FEWEST_IMAGES:
        return []
    members = {n: (targets == n).nonzero().flatten() for n in labels.tolist()}
    tasks = []
    for _ in range(TASKS):
        ways = labels[torch.randperm(len(labels), generator=generator)[:WAYS]]
        queries = min(QUERIES, int(sizes[ways].min()) - shots)
        rows = torch.stack(
            [
                members[n][torch.randperm(len(members[n]), generator=generator)[: shots + queries]]
                for n in ways.tolist()
            ]
        )
        tasks.append(Task(ways, rows[:, :shots], rows[:, shots:]))
    return tasks


@torch.no_grad()
def answer(
    points: Float[Tensor, "M D"],
    tasks: Sequence[Task],
    targets: Mapping[str, Target],
    heads: Mapping[str, Head],
    classes: int,
) -> Answers:
    """What each head gets right, and what centroids do that are moved, by each weight.

    Args:
        points: as heads see embeddings, centred and of unit length.
        targets: by the names of their generators.
        heads: rivals; those that are centred get a mean of zero.
    """
    asked = torch.zeros(len(tasks), classes)
    right: dict[str, Tensor] = {}
    zero = torch.zeros(points.shape[1])

    def count(name: str, row: int, scores: Tensor, task: Task) -> None:
        truth = torch.arange(len(task.labels)).repeat_interleave(task.query.shape[1])
        hits = (scores.argmax(dim=1) == truth).float().view(task.query.shape).sum(dim=1)
        right.setdefault(name, torch.zeros_like(asked))[row, task.labels] = hits

    for row, task in enumerate(tasks):
        asked[row, task.labels] = float(task.query.shape[1])
        ways, shots = task.support.shape
        support, queries = points[task.support.flatten()], points[task.query.flatten()]
        truth = torch.arange(ways).repeat_interleave(shots)
        blend = Blend(centered=False).fit(support, truth, ways)
        log_odds = blend.scores(queries) / blend.temperature
        means = support.view(ways, shots, -1).mean(dim=1)
        centroids = direction(means)
        cosines = queries @ centroids.T
        count("blend", row, log_odds, task)
        count("cosine", row, cosines, task)
        for name, head in heads.items():
            count(name, row, head.fit(support, truth, ways, zero).scores(queries), task)
        for name, target in targets.items():
            generated = direction(target(means, torch.full((ways,), shots)))
            for weight in WEIGHTS:
                moved = direction((1 - weight) * centroids + weight * generated)
                gain = (queries @ moved.T - cosines) / EXPECTED_CENTERED
                count(candidate(name, weight), row, log_odds + gain, task)
    return Answers(asked, right)


def cautious_gain(
    candidate: Float[Tensor, "R C"], before: Float[Tensor, "R C"], asked: Float[Tensor, "R C"]
) -> float:
    """The mean gain, 0..1, less its standard error when tasks and labels are drawn again."""
    gains = (candidate - before)[:, asked.sum(dim=0) > 0]
    drawn = redrawn_gains(gains, Generator().manual_seed(0)) / asked.sum()
    return float(drawn.mean() - drawn.std())
