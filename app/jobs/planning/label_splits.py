"""Which labels a job learns from across labels, and which it is judged with."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session
from torch import Tensor

from app.jobs.context import JobContext, JobFailed
from app.jobs.training_data import Labeled, TrainingData, labeled_images
from app.problems import InvalidRequest, LabelsDoNotSuffice, ProjectNotFound
from app.sql.lookups import find_label, find_project
from app.sql.tables import Project
from models.metalearning.episodes import (
    TEST,
    VALIDATION,
    Episodes,
    EpisodeShape,
    LabelSplit,
    TooFewForEpisodes,
    bounds,
    label_folds,
    split_labels,
)

USUAL_SHAPE = EpisodeShape(ways=(5, 10), shots=(1, 5), queries=3)
EPISODES = 100  # that suffice for an encoder that has seen images before
EPISODES_OF_HEADS = 2000  # which cost little


class SplitOptions(NamedTuple):
    """How labels are divided."""

    validation: Sequence[str]  # by id; empty: at random
    test: Sequence[str]
    separator: str  # labels that begin alike, up to it, are there for the same
    seed: int
    folds: int = 0  # in each of which other labels judge; 0: one division


class LabelPool(NamedTuple):
    """Labeled images of a project and of others, and what each label is there for."""

    labeled: Labeled  # those of the project first
    own: int  # images of the project itself
    split: (
        LabelSplit  # of `labeled.labels`, but for those with too few images; what it makes serves
    )
    folds: Sequence[LabelSplit] = ()  # what each of them makes judges alone

    @property
    def judging(self) -> Sequence[LabelSplit]:
        """The divisions that have labels to judge with."""
        return self.folds or [self.split]

    @property
    def runs(self) -> Sequence[LabelSplit]:
        """The divisions to learn by, of which the last serves."""
        return [*self.folds, self.split]

    @property
    def learned_labels(self) -> list[UUID]:
        """Those that are learned from, or choose the best state."""
        labels = self.labeled.labels
        return [labels[n] for n in (*self.split.train, *self.split.validation)]


def find_parts(session: Session, project: Project, **parts: Sequence[str]) -> dict[str, Any]:
    """The ids of labels, as a list, that parts name by name or id.

    Raises:
        LabelNotFound: the project has no such label.
        InvalidRequest: one is named twice.
    """
    known: dict[str, str] = {}  # which part names a label
    found = {}
    for part, keys in parts.items():
        found[part] = [str(find_label(session, project, key).id) for key in keys]
        for key, label_id in zip(keys, found[part], strict=True):
            if label_id in known:
                twice = "twice" if known[label_id] == part else f"by `{known[label_id]}` as well"
                raise InvalidRequest(f"`{part}` names label {key!r}, named {twice}: once is enough")
            known[label_id] = part
    return found


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


def read_training_data(
    context: JobContext, packed: dict[str, Any] | None, others: Sequence[str]
) -> tuple[TrainingData, int]:
    """What to learn from, as it was packed or is now, and how many images are the project's own."""
    if packed is not None:
        return TrainingData.unpack(packed), packed["own"]

    def read() -> tuple[TrainingData, int]:
        with context.db.reading() as session:
            project = session.get_one(Project, context.project_id)
            try:
                labeled, own = read_labels(session, project.id, others)
            except ProjectNotFound as error:
                raise JobFailed(
                    f"a project in `projects` was deleted since the job was started: {error.detail}"
                ) from error
            champion, head = project.encoder_id, project.head
        return TrainingData(labeled, champion, context.versions.base(champion), head), own

    return context.through_outages(read)


def pack_training_data(data: TrainingData, pool: LabelPool) -> dict[str, Any]:
    """Plain values, for a checkpoint; `read_training_data` reads them."""
    return {**data.pack(), "own": pool.own}


def divide(labeled: Labeled, own: int, options: SplitOptions, shape: EpisodeShape) -> LabelPool:
    """Say what each label is there for.

    Labels of the project are judged with, if other projects are learned from, none are named and
    two of its own have images enough; otherwise a part of all labels at random, or in folds each
    label once. One label alone validates nothing, and is learned from. What two projects call alike
    is there for the same: `cat` of one project must not be learned from where `cat` of another
    judges.

    Raises:
        LabelsDoNotSuffice: a part does not suffice for an episode.
    """
    enough = _with_enough_images(labeled, shape)
    ids = {n: str(label) for n, label in enumerate(labeled.labels) if n in enough}
    concepts = [_without_project(name) for name in labeled.names]
    if options.folds:
        folds = _fold({n: concepts[n] for n in ids}, options, shape)
        return LabelPool(labeled, own, LabelSplit(list(ids), [], []), folds)
    own_labels = {str(example.label_id) for example in labeled.examples[:own]}
    theirs = [n for n, label in ids.items() if label in own_labels]
    test = [n for n, label in ids.items() if label in options.test]
    if not options.test and own < len(labeled.examples) and len(theirs) >= 2:
        test = theirs
    validation = [n for n, label in ids.items() if label in options.validation]
    named = {concepts[n] for n in (*test, *validation)}
    remaining = [n for n in ids if n not in {*test, *validation} and concepts[n] not in named]
    drawn = split_labels(
        [concepts[n] for n in remaining],
        seed=options.seed,
        validation=0.0 if options.validation else VALIDATION,
        test=0.0 if test or options.test else TEST,
        separator=options.separator,
    )
    train, validated, judged = ([remaining[n] for n in part] for part in drawn)
    split = _sufficient(train, validation + validated, test + judged, shape)
    return LabelPool(labeled, own, split)


def _fold(
    concepts: Mapping[int, str], options: SplitOptions, shape: EpisodeShape
) -> list[LabelSplit]:
    """Divisions in which each label judges once.

    Args:
        concepts: what labels are called, which have images enough.

    Raises:
        LabelsDoNotSuffice: a part does not suffice for an episode.
    """
    labels = list(concepts)
    try:
        folds = label_folds(
            list(concepts.values()), options.folds, seed=options.seed, separator=options.separator
        )
    except TooFewForEpisodes as error:
        raise LabelsDoNotSuffice(
            f"of labels with {shape.images} images each, {error}",
            part="judge with",
            missing_labels=error.missing,
        ) from error
    divisions = []
    for fold in folds:
        train, validation, test = ([labels[n] for n in part] for part in fold)
        divisions.append(_sufficient(train, validation, test, shape))
    return divisions


def _sufficient(
    train: list[int], validation: list[int], test: list[int], shape: EpisodeShape
) -> LabelSplit:
    """A division that suffices for episodes; one label alone validates nothing.

    Raises:
        LabelsDoNotSuffice: a part does not suffice.
    """
    if len(validation) < 2:
        train, validation = train + validation, []
    split = LabelSplit(sorted(train), sorted(validation), sorted(test))
    _require("learn from", split.train, bounds(shape.ways)[0], shape)
    _require("judge with", split.test, 2, shape)
    return split


def _without_project(name: str) -> str:
    """The name that a label has in its project; no label has a slash in it."""
    return name.rpartition("/")[2]


def short_of_images(pool: LabelPool, shape: EpisodeShape) -> list[str]:
    """The names of labels with too few images for an episode, which are left out."""
    enough = _with_enough_images(pool.labeled, shape)
    return [name for n, name in enumerate(pool.labeled.names) if n not in enough]


def tell_left_out(context: JobContext, pool: LabelPool, shape: EpisodeShape) -> None:
    """Name the labels that are left out."""
    if short := short_of_images(pool, shape):
        names = ", ".join(map(repr, short[:10])) + (" …" if len(short) > 10 else "")
        context.message(
            f"{len(short)} label(s) have fewer than {shape.images} images and are left out: "
            f"{names}",
            labels=short[:100],
        )


class JudgedPart(NamedTuple):
    """The images of the labels to judge with."""

    positions: list[int]  # among all labeled images
    targets: Tensor  # of these images, as positions in `labeled.labels`

    def episodes(self, ways: int, shots: int, queries: int) -> Episodes:
        """Draws episodes of them; positions in episodes are those in this part."""
        shape = EpisodeShape(ways=ways, shots=shots, queries=queries)
        return Episodes(self.targets, self.targets.tolist(), shape)


def judged_part(labeled: Labeled, split: LabelSplit) -> JudgedPart:
    """What to judge with what learned by a division."""
    targets, test = labeled.targets, set(split.test)
    positions = [n for n, label in enumerate(targets.tolist()) if label in test]
    return JudgedPart(positions, targets[positions])


def _with_enough_images(labeled: Labeled, shape: EpisodeShape) -> set[int]:
    counts = Counter(labeled.targets.tolist())
    return {label for label, count in counts.items() if count >= shape.images}


def _require(part: str, labels: Sequence[int], least: int, shape: EpisodeShape) -> None:
    if len(labels) < least:
        raise LabelsDoNotSuffice(
            f"to {part}, {least} labels with {shape.images} images each are needed, and there are "
            f"{len(labels)}: add labels or images, name other projects, or ask for fewer ways, "
            "shots or queries",
            part=part,
            missing_labels=least - len(labels),
        )
