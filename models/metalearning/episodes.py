"""Episodes: small tasks of N labels and K shots each, and which labels they are drawn from."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Generator, Tensor

VALIDATION, TEST = 0.15, 0.25  # shares of the labels that are not learned from


Range = int | tuple[int, int]  # a number, or the least and the most, both possible


class TooFewForEpisodes(ValueError):
    """A part of the labels does not suffice for an episode; the message says how many are missing.

    Attributes:
        missing: labels.
    """

    def __init__(self, message: str, missing: int) -> None:
        super().__init__(message)
        self.missing = missing


@dataclass(frozen=True, kw_only=True)
class EpisodeShape:
    """How large episodes are; ranges are drawn from anew for each, all numbers being as likely."""

    ways: Range = 5  # N, labels
    shots: Range = (1, 5)  # K, support images of each label
    queries: int = 5  # query images of each label

    def __post_init__(self) -> None:
        for name, least in (("ways", 2), ("shots", 1)):
            low, high = bounds(getattr(self, name))
            if low > high:
                raise ValueError(f"{name} must be from less to more, got [{low}, {high}]")
            if not least <= low:
                raise ValueError(f"{name} must be at least {least}, got {low}")
            if high > 1000:
                raise ValueError(f"{name} must be at most 1000, got {high}")
        if not 1 <= self.queries <= 1000:
            raise ValueError(f"queries must be from 1 to 1000, got {self.queries}")

    @property
    def images(self) -> int:
        """How many images of a label the largest episode needs."""
        return bounds(self.shots)[1] + self.queries

    def among(self, labels: int) -> "EpisodeShape":
        """The same, drawn from so many labels; no fewer than the smallest episode has."""
        low, high = bounds(self.ways)
        return replace(self, ways=(low, max(low, min(high, labels))))


def bounds(numbers: Range) -> tuple[int, int]:
    """The least and the most."""
    return (numbers, numbers) if isinstance(numbers, int) else numbers


class Episode(NamedTuple):
    """A task: to tell the query images of some labels apart, given the support images.

    Row n of each belongs to class n of the episode.
    """

    labels: Int[Tensor, " C"]  # of the data
    support: Int[Tensor, "C K"]  # positions of images
    query: Int[Tensor, "C J"]  # of others

    @property
    def positions(self) -> Int[Tensor, " B"]:
        """Of all images, as an objective sees them: the support class by class, then queries."""
        return torch.cat([self.support.flatten(), self.query.flatten()])


class Episodes:
    """Draws episodes from some labels of labeled images.

    Args:
        targets: the label of each image.
        labels: to draw from; those with too few images for the largest episode are left out.

    Raises:
        TooFewForEpisodes: those that remain are fewer than the smallest episode has.
    """

    def __init__(
        self, targets: Int[Tensor, " M"], labels: Iterable[int], shape: EpisodeShape
    ) -> None:
        members = {label: (targets == label).nonzero().flatten() for label in sorted(set(labels))}
        self.shape = shape
        self.members = {n: rows for n, rows in members.items() if len(rows) >= shape.images}
        self.left_out = [label for label in members if label not in self.members]
        fewest = bounds(shape.ways)[0]
        if len(self.members) < fewest:
            raise TooFewForEpisodes(
                f"episodes of {fewest} labels need as many with {shape.images} images each, and "
                f"there are {len(self.members)}",
                fewest - len(self.members),
            )

    def draw(self, generator: Generator, size: tuple[int, int] | None = None) -> Episode:
        """An episode; no image is support and query of it.

        Args:
            size: its ways and shots, where they are drawn already.
        """
        ways, shots = size or self.draw_size(generator)
        labels = list(self.members)
        order = torch.randperm(len(labels), generator=generator)[:ways].tolist()
        picked = [
            rows[torch.randperm(len(rows), generator=generator)[: shots + self.shape.queries]]
            for rows in (self.members[labels[n]] for n in order)
        ]
        images = torch.stack(picked)
        return Episode(
            torch.tensor([labels[n] for n in order]), images[:, :shots], images[:, shots:]
        )

    def draw_disjoint(self, generator: Generator) -> Iterator[Episode]:
        """Episodes that share no image, until too few images are left."""
        unused = {
            label: rows[torch.randperm(len(rows), generator=generator)]
            for label, rows in self.members.items()
        }
        while True:
            ways, shots = self.draw_size(generator)
            size = shots + self.shape.queries
            labels = [label for label, rows in unused.items() if len(rows) >= size]
            if len(labels) < ways:
                return
            order = torch.randperm(len(labels), generator=generator)[:ways].tolist()
            drawn_from = [labels[n] for n in order]
            images = torch.stack([unused[label][:size] for label in drawn_from])
            for label in drawn_from:
                unused[label] = unused[label][size:]
            yield Episode(torch.tensor(drawn_from), images[:, :shots], images[:, shots:])

    def draw_size(self, generator: Generator) -> tuple[int, int]:
        """The ways and shots of an episode."""
        low, high = bounds(self.shape.ways)
        ways = _draw((low, min(high, len(self.members))), generator)
        return ways, _draw(bounds(self.shape.shots), generator)


def _draw(numbers: tuple[int, int], generator: Generator) -> int:
    low, high = numbers
    return low if low == high else int(torch.randint(low, high + 1, (), generator=generator))


def validation_episodes(
    targets: Int[Tensor, " M"],
    labels: Sequence[int],
    shape: EpisodeShape,
    count: int,
    seed: int,
) -> list[Episode]:
    """The episodes that choose the best state: of as many labels as there are, up to those asked.

    None without labels.

    Raises:
        TooFewForEpisodes: there is one label, or too few have images enough.
    """
    if not labels:
        return []
    low, high = bounds(shape.ways)
    ways = min(high, max(low, len(labels)), len(labels))
    if ways < 2:
        raise TooFewForEpisodes("one label to validate with cannot be told from others", 1)
    fitting = EpisodeShape(ways=(2, ways), shots=shape.shots, queries=shape.queries)
    episodes = Episodes(targets, labels, fitting)
    generator = Generator().manual_seed(seed)
    most = min(ways, len(episodes.members))
    shots = bounds(shape.shots)
    return [episodes.draw(generator, (most, shots[n % 2])) for n in range(count)]


class LabelSplit(NamedTuple):
    """Labels to learn from, to choose the best state with, and to judge with; by position."""

    train: list[int]
    validation: list[int]
    test: list[int]


def split_labels(
    names: Sequence[str],
    *,
    seed: int = 0,
    validation: float = VALIDATION,
    test: float = TEST,
    separator: str = "",
) -> LabelSplit:
    """Divide labels at random; two at least are to judge with, unless the share is 0.

    Args:
        separator: names that begin alike, up to the last of it, stay together; empty: those that
            are the same.
    """
    groups = _shuffled_groups(names, seed, separator)
    parts: list[list[int]] = [[], [], []]
    wanted = [len(names), validation * len(names), test and max(2, test * len(names))]
    for group in groups:
        # To judge comes first: where labels are few, it is what nothing else can stand in for.
        short = next((n for n in (2, 1) if len(parts[n]) + len(group) / 2 <= wanted[n]), 0)
        parts[short] += group
    return LabelSplit(*(sorted(part) for part in parts))


def label_folds(
    names: Sequence[str], count: int, *, seed: int = 0, separator: str = ""
) -> list[LabelSplit]:
    """Splits by which each label is once among those to judge with; the next fold validates.

    Raises:
        TooFewForEpisodes: there are fewer labels, or groups of them, than folds.
    """
    groups = _shuffled_groups(names, seed, separator)
    if not 3 <= count <= len(groups):
        what = "groups of labels" if separator else "labels"
        raise TooFewForEpisodes(
            f"folds must be from 3 to the number of {what}, {len(groups)}, got {count}",
            max(0, count - len(groups)),
        )
    folds = [[n for group in groups[k::count] for n in group] for k in range(count)]
    return [
        LabelSplit(
            sorted(
                n for j, fold in enumerate(folds) if j not in (k, (k + 1) % count) for n in fold
            ),
            sorted(folds[(k + 1) % count]),
            sorted(folds[k]),
        )
        for k in range(count)
    ]


def named_split(names: Sequence[str], validation: Iterable[str], test: Iterable[str]) -> LabelSplit:
    """The split that names say; labels that are not named are learned from.

    Raises:
        ValueError: a label is not there, or is named twice.
    """
    validation, test = list(validation), list(test)
    chosen = validation + test
    for name in chosen:
        if name not in names:
            raise ValueError(f"there is no label {name!r}")
        if chosen.count(name) > 1:
            raise ValueError(f"label {name!r} is named twice")
    return LabelSplit(
        [n for n, name in enumerate(names) if name not in chosen],
        [n for n, name in enumerate(names) if name in validation],
        [n for n, name in enumerate(names) if name in test],
    )


def _shuffled_groups(names: Sequence[str], seed: int, separator: str) -> list[list[int]]:
    """Positions of names that stay together."""
    groups: dict[str, list[int]] = {}
    for n in sorted(range(len(names)), key=lambda n: names[n]):
        begins = names[n].rpartition(separator)[0] if separator else ""
        key = begins or names[n]
        groups.setdefault(key, []).append(n)
    ordered = list(groups.values())
    order = torch.randperm(len(ordered), generator=Generator().manual_seed(seed))
    return [ordered[n] for n in order.tolist()]
