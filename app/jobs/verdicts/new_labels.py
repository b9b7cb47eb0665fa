"""How a job judges an encoder that learned across labels: on labels that are new to it."""

from collections.abc import Mapping, Sequence
from uuid import UUID

import torch
from jaxtyping import Float
from pydantic import BaseModel
from torch import Generator, Tensor

from app.jobs.context import JobContext
from app.jobs.decoded_images import decode_readable
from app.jobs.planning.label_splits import JudgedPart, LabelPool, judged_part
from app.jobs.training_data import Labeled, TrainingData
from app.jobs.verdicts import champion_head, combine_verdicts
from handful.contract.jobs import VerdictRead
from models.encoders import Encoder
from models.evaluation.comparison import compare_on_episodes
from models.finetuning import embed_all
from models.heads import Head
from models.heads.kinds.auto import Auto
from models.metalearning.episodes import Episode, EpisodeShape, bounds
from models.metalearning.guard import correct_answers, queries_asked

EPISODES = 100  # of each number of shots
Answers = dict[int, Float[Tensor, "R C"]]  # by shots: queries of each label that were right


class LabelNames(BaseModel):
    """What each label was there for; labels of another project are `project/label`."""

    train: list[str]
    validation: list[str]
    test: list[str]
    folds: list[list[str]] = []  # each judged by what learned from others; then all are learned

    @classmethod
    def of(cls, pool: LabelPool) -> "LabelNames":
        """By the names that labels had."""
        names = pool.labeled.names
        train, validation, test = ([names[n] for n in part] for part in pool.split)
        folds = [[names[n] for n in fold.test] for fold in pool.folds]
        return cls(train=train, validation=validation, test=test, folds=folds)


class NewLabelsVerdict(VerdictRead):
    """How a candidate did with labels that it never saw."""

    labels: LabelNames


class NewLabels:
    """Episodes of the labels that judge, the same for all that are compared.

    Where labels are in folds, those of each fold have episodes of their own, in turn.

    Args:
        shape: of the episodes, of which the least and the most shots are judged.
    """

    def __init__(self, pool: LabelPool, shape: EpisodeShape, *, seed: int) -> None:
        self._names = LabelNames.of(pool)
        self._parts = [judged_part(pool.labeled, split) for split in pool.judging]
        self.positions = [n for part in self._parts for n in part.positions]  # images that judge
        self.digests = [pool.labeled.examples[n].sha256 for n in self.positions]
        self._classes, generator = len(pool.labeled.labels), Generator().manual_seed(seed)
        self._drawn = [_draw(part, shape, generator) for part in self._parts]

    def positions_of(self, fold: int) -> list[int]:
        """The images that judge what learned by a division that judges, counted from 0."""
        return self._parts[fold].positions

    def answers_of(self, fold: int, head: Head, embeddings: Float[Tensor, "M D"]) -> Answers:
        """What a head gets right on embeddings of these images."""
        return {
            shots: correct_answers(head, embeddings, episodes, self._classes)
            for shots, episodes in self._drawn[fold].items()
        }

    def answers(self, head: Head, embeddings: Float[Tensor, "M D"]) -> Answers:
        """What a head gets right on embeddings of all images that judge."""
        parts = torch.split(embeddings, [len(part.positions) for part in self._parts])
        return one_after_another([self.answers_of(n, head, part) for n, part in enumerate(parts)])

    def verdict(self, candidate: Answers, rivals: Mapping[str, Answers]) -> NewLabelsVerdict:
        """Better than all rivals at every number of shots, or not."""
        asked = one_after_another(
            [
                {shots: queries_asked(drawn, self._classes) for shots, drawn in fold.items()}
                for fold in self._drawn
            ]
        )
        verdict = combine_verdicts(
            {
                f"{name} at {shots} shot{'s' if shots > 1 else ''}": compare_on_episodes(
                    candidate[shots], theirs[shots], asked[shots]
                )
                for name, theirs in rivals.items()
                for shots in asked
            },
            len(self.positions),
        )
        return NewLabelsVerdict(**dict(verdict), labels=self._names)


def one_after_another(folds: Sequence[Answers]) -> Answers:
    """The answers in the episodes of all folds."""
    return {shots: torch.cat([fold[shots] for fold in folds]) for shots in folds[0]}


def _draw(part: JudgedPart, shape: EpisodeShape, generator: Generator) -> dict[int, list[Episode]]:
    """Episodes at the least and the most shots."""
    ways = min(bounds(shape.ways)[1], len(set(part.targets.tolist())))
    return {
        shots: [part.episodes(ways, shots, shape.queries).draw(generator) for _ in range(EPISODES)]
        for shots in sorted({*bounds(shape.shots)})
    }


def judge_on_new_labels(
    context: JobContext, data: TrainingData, labels: NewLabels, candidate: Answers, base: Encoder
) -> NewLabelsVerdict:
    """Compare an encoder with what serves on the same episodes.

    That is the version and head that serve the project now, and the frozen encoder with the best
    head. The former may have learned the labels that judge, which makes it harder to beat.

    Args:
        candidate: what it gets right, under the project's head.
        base: the frozen encoder.
    """

    def answers(encoder: Encoder, head: Head) -> Answers:
        _, images = decode_readable(context, labels.digests, encoder)
        return labels.answers(head, embed_all(encoder, images))

    head = champion_head(context, data)
    rivals = {"frozen": answers(base, Auto())}
    if data.champion != data.base or head != Auto():
        champion = context.through_outages(lambda: context.versions.load(data.champion))
        rivals["champion"] = answers(champion, head)
    return labels.verdict(candidate, rivals)


def judge_head_on_new_labels(
    context: JobContext,
    data: TrainingData,
    labels: NewLabels,
    candidate: Answers,
    embeddings: Float[Tensor, "M D"],
) -> NewLabelsVerdict:
    """Compare a head, on the embeddings of the version that serves, with what serves.

    Args:
        candidate: what it gets right.
        embeddings: of the images that judge, by that version.
    """
    head = champion_head(context, data)
    rivals = {}
    if data.champion == data.base:
        rivals["frozen"] = labels.answers(Auto(), embeddings)
    else:
        base = context.through_outages(lambda: context.versions.load(data.base))
        _, images = decode_readable(context, labels.digests, base)
        rivals["frozen"] = labels.answers(Auto(), embed_all(base, images))
    if data.champion != data.base or head != Auto():
        rivals["champion"] = labels.answers(head, embeddings)
    return labels.verdict(candidate, rivals)


def predictions_before(
    context: JobContext, data: TrainingData, pool: LabelPool, base: Encoder
) -> list[Sequence[UUID]]:
    """What the encoder that never saw the labels says of each image whose label was learned.

    By leave-one-out with the project's head, for the verdicts of later jobs; nothing of images
    whose labels judged, and of those of other projects.
    """
    predictions: list[Sequence[UUID]] = [() for _ in pool.labeled.examples]
    own = Labeled(pool.labeled.examples[: pool.own])
    learned = set(pool.learned_labels)
    labels, targets = own.labels, own.targets
    if len(labels) < 2 or not learned & set(labels):
        return predictions
    _, images = decode_readable(context, [example.sha256 for example in own.examples], base)
    embeddings = embed_all(base, images)
    fitted = data.head.fit(embeddings, targets, len(labels), embeddings.mean(dim=0))
    answers = fitted.leave_one_out(embeddings, targets).argmax(dim=1).tolist()
    for n, (example, answer) in enumerate(zip(own.examples, answers, strict=True)):
        if example.label_id in learned:
            predictions[n] = (labels[answer],)
    return predictions
