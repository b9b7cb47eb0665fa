"""How a job judges an encoder that learned across labels: on labels that are new to it."""

from collections.abc import Sequence
from uuid import UUID

from jaxtyping import Float
from torch import Generator, Tensor

from app.jobs.context import JobContext
from app.jobs.decoded_images import decode_readable
from app.jobs.planning.label_splits import LabelPool, judged_part
from app.jobs.training_data import Labeled, TrainingData
from app.jobs.verdicts import combine_verdicts
from handful.contract.jobs import VerdictRead
from models.encoders import Encoder
from models.finetuning import embed_all
from models.heads import Head
from models.heads.kinds.auto import Auto
from models.metalearning.episodes import EpisodeShape, bounds
from models.metalearning.guard import compare_on_episodes, correct_answers, queries_asked

EPISODES = 100  # of each number of shots


def judge_on_new_labels(
    context: JobContext,
    data: TrainingData,
    pool: LabelPool,
    shape: EpisodeShape,
    candidate: Encoder,
    base: Encoder,
    *,
    seed: int,
) -> VerdictRead:
    """Compare a candidate, under the project's head, with what serves on the same episodes.

    That is the version and head that serve the project now, and the frozen encoder with the best
    head. The former may have learned the labels that judge, which makes it harder to beat.

    Args:
        base: the frozen encoder.
    """
    part = judged_part(pool)
    digests = [pool.labeled.examples[n].sha256 for n in part.positions]
    classes, generator = len(pool.labeled.labels), Generator().manual_seed(seed)
    ways = min(bounds(shape.ways)[1], len(pool.split.test))
    drawn = {
        shots: [part.episodes(ways, shots, shape.queries).draw(generator) for _ in range(EPISODES)]
        for shots in sorted({*bounds(shape.shots)})
    }

    def answers(encoder: Encoder, head: Head) -> dict[int, Float[Tensor, "R C"]]:
        _, images = decode_readable(context, digests, encoder)
        embeddings = embed_all(encoder, images)
        return {n: correct_answers(head, embeddings, drawn[n], classes) for n in drawn}

    right = answers(candidate, data.head)
    rivals = {"frozen": answers(base, Auto())}
    if data.champion != data.base or data.head != Auto():
        champion = context.through_outages(lambda: context.versions.load(data.champion))
        rivals["champion"] = answers(champion, data.head)
    verdicts = {
        f"{name} at {shots} shot{'s' if shots > 1 else ''}": compare_on_episodes(
            right[shots], theirs[shots], queries_asked(drawn[shots], classes)
        )
        for name, theirs in rivals.items()
        for shots in drawn
    }
    return combine_verdicts(verdicts, len(digests))


def predictions_before(
    context: JobContext, data: TrainingData, pool: LabelPool, base: Encoder
) -> list[Sequence[UUID]]:
    """What the encoder that never saw the labels says of each image whose label was learned.

    By leave-one-out with the project's head, so that reports of the new version stay honest;
    nothing of images whose labels judged, and of those of other projects.
    """
    predictions: list[Sequence[UUID]] = [() for _ in pool.labeled.examples]
    own = Labeled(pool.labeled.examples[: pool.own])
    learned = {pool.labeled.labels[n] for n in (*pool.split.train, *pool.split.validation)}
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
