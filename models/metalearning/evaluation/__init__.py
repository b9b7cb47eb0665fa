"""How heads do on episodes of embedded images, all on the same, for as long as there is time."""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations, islice
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from models.evaluation.calibration_curve import BINS, bin_sums, curve_of
from models.evaluation.intervals import Interval
from models.heads.kinds.cosine import Cosine
from models.metalearning.episodes import Episode, Episodes, EpisodeShape, Range, bounds
from models.metalearning.evaluation.answers import EpisodeModel, class_probabilities
from models.metalearning.intervals import (
    FEW_LABELS,
    Difference,
    Separate,
    difference_over_episodes,
    difference_over_images,
    over_episodes,
    over_images,
    over_labels,
    student_quantile,
)

EPISODES_PER_STEP = 64  # at most, where all heads are nearest centroids
NUMBERS_PER_STEP = 1 << 21  # of the embeddings of these: 8 MB in float32, 16 MB in float64
SUPPORT_STD, QUERY_STD = 0.05, 0.4  # of accuracy by the support, and of one answer: a usual case


class EpisodeFigures(NamedTuple):
    """How a model does at a number of shots; None where episodes are too few, or labels too many.

    All values are shares, 0..1.
    """

    over_episodes: Interval | None
    over_images: Interval | None
    over_labels: Interval | None
    calibration_error: float | None  # expected, in 15 bins, of all queries of all episodes
    label_accuracy: dict[int, float]  # of the labels that were drawn


class PairedFigures(NamedTuple):
    """By how much a model is better than another on the same episodes."""

    first: int  # positions of the models
    second: int
    over_episodes: Difference | None
    over_images: Difference | None


class ShotFigures(NamedTuple):
    """What came out at a number of shots."""

    shots: int
    separate_episodes: int  # done that share no image
    separate_queries: int  # of each label in these
    models: list[EpisodeFigures]
    pairs: list[PairedFigures]  # all, in the order of the models


class EpisodicEvaluation:
    """Judges models on the same episodes, step by step.

    Two sets of episodes are drawn by the seed alone. The many share images; the same ones serve all
    numbers of shots, with the first shots of each label. The separate ones share none. Labels count
    alike in both, so that of each label as many images can be in the separate ones as of the label
    that has fewest; these take as many queries, up to those asked for, as should measure best.

    Args:
        models: with embeddings of the same images.
        targets: the label of each image.
        labels: to draw from; those with too few images for the most shots are left out.
        shots: numbers of support images of each label to try.
        queries: query images of each label.
        count: episodes, as many as there shall be in the end.

    Raises:
        TooFewForEpisodes: labels are too few, or have too few images.
        ValueError: a number is out of bounds.
    """

    def __init__(
        self,
        models: Sequence[EpisodeModel],
        targets: Int[Tensor, " M"],
        labels: Sequence[int],
        *,
        ways: Range,
        shots: Sequence[int],
        queries: int,
        count: int,
        seed: int = 0,
    ) -> None:
        shape = EpisodeShape(ways=ways, shots=max(shots), queries=queries)
        self.models = models
        self.episodes = Episodes(targets, labels, shape)
        self.count = count
        self.done = 0  # of each number of shots
        self._generator = Generator().manual_seed(seed)
        self._rounds = [
            _Round(
                self,
                number,
                _separate(self.episodes.members, ways, number, queries, count, seed),
            )
            for number in shots
        ]

    @property
    def labels(self) -> list[int]:
        """Those that have images enough."""
        return list(self.episodes.members)

    @property
    def left_out(self) -> list[int]:
        """Labels with too few images."""
        return self.episodes.left_out

    def steps(self) -> Iterator[None]:
        """Judge a model on some episodes at a time; whoever stops in between loses that step."""
        size = self._episodes_per_step()
        while self.done < self.count:
            drawn = [
                self.episodes.draw(self._generator)
                for _ in range(min(size, self.count - self.done))
            ]
            outcomes = []
            for part in self._rounds:
                outcome = _Outcome(part.with_its_shots(drawn), part.remaining[:size], [], [])
                for model in self.models:
                    yield
                    outcome.of_drawn.append(_judge(model, outcome.drawn))
                    yield
                    outcome.of_separate.append(_judge(model, outcome.separate))
                outcomes.append(outcome)
            for part, outcome in zip(self._rounds, outcomes, strict=True):
                part.add(outcome)
            self.done += len(drawn)

    def figures(self) -> list[ShotFigures]:
        """What came out so far, by number of shots."""
        return [part.figures() for part in self._rounds]

    def _episodes_per_step(self) -> int:
        if not all(isinstance(model.head, Cosine) for model in self.models):
            return 1
        ways = min(bounds(self.episodes.shape.ways)[1], len(self.episodes.members))
        largest = max(model.embeddings.shape[1] for model in self.models)
        numbers = ways * self.episodes.shape.images * largest
        return max(1, min(EPISODES_PER_STEP, NUMBERS_PER_STEP // numbers))


class _Judged(NamedTuple):
    """What a model made of some episodes."""

    recalls: list[Tensor]  # of each, (C,): the share of right answers of each of its labels
    sums: Float[Tensor, "3 W"]  # of all their queries, as `bin_sums` has them


class _Outcome(NamedTuple):
    """What models made of the episodes of a step, one model after the other."""

    drawn: list[Episode]
    separate: list[Episode]
    of_drawn: list[_Judged]
    of_separate: list[_Judged]


class _Round:
    """All that came out at a number of shots."""

    def __init__(self, evaluation: EpisodicEvaluation, shots: int, separate: list[Episode]) -> None:
        labels, models = evaluation.labels, len(evaluation.models)
        self.shots = shots
        self.remaining = separate
        self._labels = labels
        self._images = sum(len(rows) for rows in evaluation.episodes.members.values())
        self._place = {label: place for place, label in enumerate(labels)}
        self._queries = separate[0].query.shape[1] if separate else 0
        self._separate_queries = 0  # in all separate episodes
        self._drawn: list[Tensor] = []  # (R, G) accuracies
        self._separate: list[Tensor] = []  # (G, M) recalls, of those that share no image
        self._separate_labels: list[Tensor] = []  # (C,) of each of these
        self._present: list[Tensor] = []  # (1, C), which labels an episode has
        self._sums = torch.zeros(models, 3, BINS, dtype=torch.float64)
        self._recalls = torch.zeros(models, len(labels), dtype=torch.float64)
        self._drawn_labels = torch.zeros(len(labels), dtype=torch.int64)

    def with_its_shots(self, episodes: list[Episode]) -> list[Episode]:
        """The same episodes with this number of shots."""
        return [Episode(e.labels, e.support[:, : self.shots], e.query) for e in episodes]

    def add(self, outcome: _Outcome) -> None:
        """Count a step that is complete."""
        if outcome.drawn:
            self._drawn.append(_accuracies(outcome.of_drawn))
            for model, judged in enumerate(outcome.of_drawn):
                self._sums[model] += judged.sums
            for number, episode in enumerate(outcome.drawn):
                places = torch.tensor([self._place[label] for label in episode.labels.tolist()])
                self._present.append(torch.zeros(1, len(self._labels), dtype=torch.bool))
                self._present[-1][0, places] = True
                self._drawn_labels[places] += 1
                for model, judged in enumerate(outcome.of_drawn):
                    self._recalls[model, places] += judged.recalls[number]
        if outcome.separate:
            self._separate.append(torch.stack([torch.cat(j.recalls) for j in outcome.of_separate]))
            self._separate_labels += [e.labels for e in outcome.separate]
            self._separate_queries += sum(e.query.numel() for e in outcome.separate)
            self.remaining = self.remaining[len(outcome.separate) :]

    def figures(self) -> ShotFigures:
        """What came out."""
        models = len(self._sums)
        drawn = torch.cat([torch.zeros(0, models), *self._drawn]).T  # (G, R)
        separate = self._separate_episodes()
        return ShotFigures(
            self.shots,
            len(self._separate_labels),
            self._queries,
            [self._of_model(n, drawn[n], separate[n] if separate else None) for n in range(models)],
            [
                PairedFigures(
                    a,
                    b,
                    difference_over_episodes(drawn[a], drawn[b]) if drawn.shape[1] > 1 else None,
                    difference_over_images(_less(separate[a], separate[b])) if separate else None,
                )
                for a, b in combinations(range(models), 2)
            ],
        )

    def _separate_episodes(self) -> list[Separate] | None:
        """Those of each model; None: there are no two."""
        if len(self._separate_labels) < 2:
            return None
        sizes = torch.tensor([len(labels) for labels in self._separate_labels])
        episodes = torch.arange(len(sizes)).repeat_interleave(sizes)
        labels = torch.cat(self._separate_labels)
        recalls = torch.cat(self._separate, dim=1)
        return [Separate(row, episodes, labels) for row in recalls]

    def _of_model(
        self, model: int, drawn: Float[Tensor, " R"], separate: Separate | None
    ) -> EpisodeFigures:
        few = len(drawn) > 1 and len(self._labels) < FEW_LABELS
        means = (self._recalls[model] / self._drawn_labels).tolist()
        return EpisodeFigures(
            over_episodes(drawn) if len(drawn) > 1 else None,
            over_images(separate, self._separate_queries) if separate else None,
            over_labels(drawn, torch.cat(self._present), self._images) if few else None,
            curve_of(self._sums[model]).error if len(drawn) else None,
            {
                label: mean
                for label, mean, count in zip(
                    self._labels, means, self._drawn_labels.tolist(), strict=True
                )
                if count
            },
        )


def _accuracies(judged: Sequence[_Judged]) -> Float[Tensor, "R G"]:
    """Of each episode by each model."""
    columns = [torch.stack([recall.mean() for recall in part.recalls]) for part in judged]
    return torch.stack(columns, dim=1)


def _less(first: Separate, second: Separate) -> Separate:
    """The difference of two models on the same episodes."""
    return first._replace(recalls=first.recalls - second.recalls)


def _separate(
    members: dict[int, Int[Tensor, " U"]],
    ways: Range,
    shots: int,
    queries: int,
    most: int,
    seed: int,
) -> list[Episode]:
    """Episodes that share no image, of labels with as many images each.

    Args:
        members: the images of each label.
    """
    generator = Generator().manual_seed(seed)
    fewest, widest = min(map(len, members.values())), min(bounds(ways)[1], len(members))

    def width(size: int) -> float:
        return _expected_width(len(members) * (fewest // (shots + size)) // widest, widest * size)

    size = min(range(queries, 0, -1), key=width)
    capped = torch.full((1 + max(int(rows.max()) for rows in members.values()),), -1)
    for label, rows in members.items():
        capped[rows[torch.randperm(len(rows), generator=generator)[:fewest]]] = label
    shape = EpisodeShape(ways=ways, shots=shots, queries=size)
    return list(islice(Episodes(capped, members, shape).draw_disjoint(generator), most))


def _expected_width(episodes: int, queries: int) -> float:
    """In a usual case, of the interval over images; not of the case at hand, which would bias it.

    Accuracy does not depend on how many queries there are, but how well it is measured does: fewer
    queries leave images for more episodes (Lafargue et al., 2024).

    Args:
        queries: of an episode.
    """
    if episodes < 2:
        return math.inf
    std = math.hypot(SUPPORT_STD, QUERY_STD / math.sqrt(queries))
    return student_quantile(0.975, episodes - 1) * std / math.sqrt(episodes)


def _judge(model: EpisodeModel, episodes: list[Episode]) -> _Judged:
    """Nearest centroids of all episodes of one size at once, other heads one by one."""
    groups: dict[int, list[int]] = {}
    for number, episode in enumerate(episodes):
        alike = len(episode.labels) if isinstance(model.head, Cosine) else number
        groups.setdefault(alike, []).append(number)
    recalls: dict[int, Tensor] = {}
    sums = torch.zeros(3, BINS, dtype=torch.float64)
    for numbers in groups.values():
        of_one_size = [episodes[number] for number in numbers]
        probabilities = class_probabilities(model, of_one_size)  # (R, Q, C)
        ways, queries = episodes[numbers[0]].query.shape
        confidence, answers = probabilities.max(dim=2)
        right = answers == torch.arange(ways).repeat_interleave(queries)
        sums += bin_sums(confidence.flatten(), right.flatten())
        shares = right.view(len(numbers), ways, queries).double().mean(dim=2)
        recalls.update(zip(numbers, shares, strict=True))
    return _Judged([recalls[number] for number in range(len(episodes))], sums)
