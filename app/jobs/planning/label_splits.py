"""Which labels a job learns from across labels, and which it is judged with."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session
from torch import Tensor

from app.jobs.training_data import Labeled, labeled_images
from app.problems import InvalidRequest, TooFewToMetatrain
from app.sql.lookups import find_label, find_project
from app.sql.tables import Project
from models.metalearning.episodes import (
    VALIDATION,
    Episodes,
    EpisodeShape,
    LabelSplit,
    bounds,
    split_labels,
)


class SplitOptions(NamedTuple):
    """How labels are divided."""

    validation: Sequence[str]  # by id; empty: at random
    test: Sequence[str]
    by_prefix: bool
    seed: int


class LabelPool(NamedTuple):
    """Labeled images of a project and of others, and what each label is there for."""

    labeled: Labeled  # those of the project first
    own: int  # images of the project itself
    split: LabelSplit  # of `labeled.labels`

    @property
    def own_labels(self) -> set[UUID]:
        return {example.label_id for example in self.labeled.examples[: self.own]}


def find_labels(session: Session, project: Project, keys: Sequence[str]) -> list[str]:
    """The ids of labels that are named by name or id.

    Raises:
        LabelNotFound: the project has no such label.
        InvalidRequest: one is named twice.
    """
    ids = [str(find_label(session, project, key).id) for key in keys]
    for key, label_id in zip(keys, ids, strict=True):
        if ids.count(label_id) > 1:
            raise InvalidRequest(f"label {key!r} is named twice; once is enough")
    return ids


def read_labels(session: Session, project_id: UUID, others: Sequence[str]) -> tuple[Labeled, int]:
    """The labeled images of a project and of others, and how many are the project's own.

    An image is its content: what the project has, or a project named before, is left out of those
    named after it. Their labels are called `project/label`.
    """
    examples = labeled_images(session, project_id).examples
    own, known = len(examples), {example.sha256 for example in examples}
    for key in others:
        other = find_project(session, key)
        for example in labeled_images(session, other.id).examples:
            if example.sha256 not in known:
                known.add(example.sha256)
                examples.append(example._replace(label=f"{other.name}/{example.label}"))
    return Labeled(examples), own


def divide(labeled: Labeled, own: int, options: SplitOptions, shape: EpisodeShape) -> LabelPool:
    """Say what each label is there for.

    Labels of the project are judged with, if other projects are learned from and none are named;
    otherwise a part of all labels at random. One label alone validates nothing, and is learned
    from.

    Raises:
        TooFewToMetatrain: a part does not suffice for an episode.
    """
    ids = [str(label) for label in labeled.labels]
    names = labeled.names
    own_labels = {str(example.label_id) for example in labeled.examples[:own]}
    test = [n for n, label in enumerate(ids) if label in options.test]
    if not options.test and own < len(labeled.examples):
        test = [n for n, label in enumerate(ids) if label in own_labels]
    validation = [n for n, label in enumerate(ids) if label in options.validation]
    remaining = [n for n in range(len(ids)) if n not in {*test, *validation}]
    drawn = split_labels(
        [names[n] for n in remaining],
        seed=options.seed,
        validation=0.0 if validation else VALIDATION,
        **({"test": 0.0} if test else {}),
        by_prefix=options.by_prefix,
    )
    parts = [[remaining[n] for n in part] for part in drawn]
    split = LabelSplit(parts[0], sorted(parts[1] + validation), sorted(parts[2] + test))
    enough = _with_enough_images(labeled, shape)
    if len(enough & set(split.validation)) < 2:
        split = LabelSplit(sorted(split.train + split.validation), [], split.test)
    for part, labels, least in (
        ("learn from", split.train, bounds(shape.ways)[0]),
        ("judge with", split.test, 2),
    ):
        _require(part, len(enough & set(labels)), least, shape)
    return LabelPool(labeled, own, split)


def short_of_images(pool: LabelPool, shape: EpisodeShape) -> list[str]:
    """The names of labels with too few images for an episode, which are left out."""
    enough = _with_enough_images(pool.labeled, shape)
    return [name for n, name in enumerate(pool.labeled.names) if n not in enough]


class JudgedPart(NamedTuple):
    """The images of the labels to judge with."""

    positions: list[int]  # among all labeled images
    targets: Tensor  # of these images, as positions in `labeled.labels`
    labels: list[int]  # that have images enough

    def episodes(self, ways: int, shots: int, queries: int) -> Episodes:
        """Draws episodes of them; positions in episodes are those in this part."""
        return Episodes(
            self.targets, self.labels, EpisodeShape(ways=ways, shots=shots, queries=queries)
        )


def judged_part(pool: LabelPool, shape: EpisodeShape) -> JudgedPart:
    """What to judge with."""
    targets, test = pool.labeled.targets, set(pool.split.test)
    positions = [n for n, label in enumerate(targets.tolist()) if label in test]
    enough = _with_enough_images(pool.labeled, shape) & test
    return JudgedPart(positions, targets[positions], sorted(enough))


def _with_enough_images(labeled: Labeled, shape: EpisodeShape) -> set[int]:
    counts = Counter(labeled.targets.tolist())
    return {label for label, count in counts.items() if count >= shape.images}


def _require(part: str, labels: int, least: int, shape: EpisodeShape) -> None:
    if labels < least:
        raise TooFewToMetatrain(
            f"to {part}, {least} labels with {shape.images} images each are needed, and there are "
            f"{labels}: add labels or images, name other projects, or ask for fewer ways, shots or "
            "queries",
            part=part,
            missing_labels=least - labels,
        )
