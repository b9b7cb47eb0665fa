"""How a job judges: a candidate beside what it would replace, on images that neither ever saw."""

from collections.abc import Callable, Mapping
from uuid import UUID

from jaxtyping import Float, Int
from sqlalchemy import select
from torch import Tensor

from app.jobs.context import JobContext
from app.jobs.training_data import Labeled, TrainingData
from app.problems import HeadUnavailable
from app.sql.database import Database
from app.sql.tables import TrainingImage
from handful.contract.jobs import ComparisonRead, VerdictRead
from models.encoders import Encoder
from models.evaluation.comparison import Verdict, compare
from models.heads import Head

Correctness = Float[Tensor, " M"]  # how often each image was classified right, 0..1


def correctness(predicted: Int[Tensor, "R M"], targets: Int[Tensor, " M"]) -> Correctness:
    """How often each image was classified right, 0..1, over the repetitions."""
    return (predicted == targets).float().mean(dim=0)


def judge_beside(
    context: JobContext,
    data: TrainingData,
    candidate: Correctness,
    rivals: Mapping[str, Correctness],
    correctness_of: Callable[[Encoder, Head], Correctness],
) -> VerdictRead:
    """Compare a candidate with its rivals, and with the version that serves the project.

    Args:
        correctness_of: a head on the embeddings of an encoder, on the labeled images.
    """
    targets, rivals = data.labeled.targets, dict(rivals)
    head = champion_head(context, data)
    if data.champion != data.base or head != data.head:
        champion = context.through_outages(lambda: context.versions.load(data.champion))
        right = correctness_of(champion, head)
        rivals["champion"] = context.through_outages(
            lambda: out_of_fold_correctness(context.db, data.champion, data.labeled, right)
        )
    return combine_verdicts(
        {name: compare(candidate, rival, targets) for name, rival in rivals.items()}, len(targets)
    )


def champion_head(context: JobContext, data: TrainingData) -> Head:
    """The head that served when the job started; `auto` if that was learned, and is lost since."""
    try:
        return context.through_outages(lambda: context.learned_heads.build(data.head_choice))
    except HeadUnavailable as error:
        context.message(f"{error}: what serves is judged with `auto`")
        return data.head


def combine_verdicts(
    verdicts: Mapping[str, Verdict], images: int, *, beside: Mapping[str, Verdict] | None = None
) -> VerdictRead:
    """One verdict of several: the worst.

    Args:
        images: on which all of them were reached.
        beside: others to show, which decide nothing.
    """
    worst = min(verdicts.values(), key=lambda verdict: (verdict.better, verdict.probability))
    return VerdictRead(
        better=worst.better,
        reason=worst.reason,
        images=images,
        accuracy=round(worst.accuracy, 4),
        against={name: comparison_of(v) for name, v in {**verdicts, **(beside or {})}.items()},
    )


def unjudged(images: int) -> VerdictRead:
    """The verdict where labels do not suffice for one."""
    return VerdictRead(
        reason="there are too few labels to judge it: two with two images each are needed",
        images=images,
    )


def out_of_fold_correctness(
    db: Database, version: UUID, labeled: Labeled, right: Correctness
) -> Correctness:
    """How often a version is right on images that it, or models like it, never saw.

    What it learned from is judged by the predictions of its own cross-validation, kept when it was
    made; what was labeled since, by the version itself.

    Args:
        right: by the version itself, on all images.
    """
    judged = right.clone()
    with db.reading() as session:
        query = select(TrainingImage).where(TrainingImage.encoder_id == version)
        training_images = {image.image_id: image for image in session.scalars(query)}
    for n, example in enumerate(labeled.examples):
        image = training_images.get(example.image_id)
        if image is not None and image.predicted:
            hits = sum(label == str(example.label_id) for label in image.predicted)
            judged[n] = hits / len(image.predicted)
    return judged


def comparison_of(verdict: Verdict) -> ComparisonRead:
    """A verdict as it is told."""
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in verdict._asdict().items()}
    return ComparisonRead.model_validate(rounded)
