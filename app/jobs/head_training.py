"""The skeleton of a job that learns a head: gather embeddings, learn, judge, save, promote."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import torch
from jaxtyping import Float
from sqlalchemy import select
from torch import Tensor

from app.jobs.context import JobContext
from app.jobs.decoded_images import decode_readable
from app.jobs.promotion import Promote
from app.jobs.training import LearnerT, LearningKind, TrainableT, learn, made_by_job
from app.jobs.training_data import Example, TrainingData
from app.sql.blob_marks import unmark
from app.sql.columns import Float16s
from app.sql.head_choices import LEARNED, Learned, document
from app.sql.lookups import find_project, portions
from app.sql.tables import Embedding, LearnedHead, now
from handful.contract.jobs import JobResult, VerdictRead
from models.finetuning import embed_all
from models.heads.network import HeadModule


class TrainedHead(NamedTuple):
    """A network that has learned, and what is to be written of it."""

    network: HeadModule
    method: str
    options: dict[str, Any]
    verdict: VerdictRead
    learned_labels: Sequence[UUID]  # of the project and of others


class HeadTrainingKind(LearningKind[TrainableT, LearnerT], Protocol[TrainableT, LearnerT]):
    """A kind of job that learns a head for the version that serves the project."""

    def judge(self, context: JobContext, material: TrainableT, learner: LearnerT) -> TrainedHead:
        """What came out of a learner that has done all its steps."""
        ...


class HeadResult(JobResult):
    """What became of a learned head."""

    head: UUID
    promoted: bool


class _Saved(NamedTuple):
    """A head that is stored, and what it was judged to replace."""

    head: UUID
    verdict: VerdictRead
    champion: UUID  # the version and the head that served the project
    champion_head: dict[str, Any]


def train_head(
    context: JobContext, kind: HeadTrainingKind[TrainableT, LearnerT], promote: Promote
) -> HeadResult:
    """Make a head, once however often the job is interrupted; promote it if it is better."""
    saved = _saved_head(context)
    if saved is None:
        material, learner = learn(context, kind)
        saved = _save(context, material.data, kind.judge(context, material, learner))
    due = promote == "always" or (promote == "auto" and saved.verdict.better)
    promoted = due and context.through_outages(
        lambda: _promote(context, saved, whatever_serves=promote == "always")
    )
    if due and not promoted:
        context.message("another version or head was promoted meanwhile, so this one was not")
    outcome = "promoted" if promoted else "not promoted"
    return HeadResult(
        summary=f"head {saved.head} {outcome}; {saved.verdict.reason}",
        verdict=saved.verdict,
        head=saved.head,
        promoted=promoted,
    )


def embeddings_of(
    context: JobContext, version: UUID, examples: Sequence[Example]
) -> tuple[list[int], Float[Tensor, "M D"]]:
    """The positions of the images that have an embedding of a version or can be read, and those.

    Stored ones are taken as they are; the others are embedded now.
    """
    stored = context.through_outages(lambda: _stored(context, version, examples))
    missing = [n for n, example in enumerate(examples) if example.image_id not in stored]
    embedded: dict[int, Tensor] = {
        n: torch.from_numpy(stored[example.image_id]).float()
        for n, example in enumerate(examples)
        if example.image_id in stored
    }
    if missing:
        encoder = context.through_outages(lambda: context.versions.load(version))
        digests = [examples[n].sha256 for n in missing]
        readable, images = decode_readable(context, digests, encoder)
        if readable:
            vectors = embed_all(encoder, images).half().float().cpu()  # as they would be stored
            embedded |= {missing[n]: vector for n, vector in zip(readable, vectors, strict=True)}
    positions = sorted(embedded)
    return positions, torch.stack([embedded[n] for n in positions])


def _saved_head(context: JobContext) -> _Saved | None:
    """The head that an earlier attempt of this job has made."""
    head = made_by_job(context, LearnedHead)
    if head is None:
        return None
    metrics = dict(head.metrics)
    champion_head = metrics.pop("champion_head")
    metrics.pop("learned_labels", None)
    return _Saved(head.id, VerdictRead.model_validate(metrics), head.encoder_id, champion_head)


def _save(context: JobContext, data: TrainingData, trained: TrainedHead) -> _Saved:
    """Store the head and all that is known of it at once."""
    metrics = {
        "champion_head": data.head_choice,
        "learned_labels": [str(label) for label in trained.learned_labels],
        **trained.verdict.model_dump(mode="json"),
    }

    def write(weights: str) -> UUID | None:
        with context.queue.holding(context.claim) as session:
            if not unmark(session, [weights]):
                return None
            head = LearnedHead(
                project_id=context.project_id,
                encoder_id=data.champion,
                job_id=context.claim.job_id,
                method=trained.method,
                options=trained.options,
                weights=weights,
                metrics=metrics,
            )
            session.add(head)
            session.flush()
            return head.id

    while True:
        weights = context.learned_heads.store(trained.network)
        head = context.through_outages(partial(write, weights))
        if head is not None:
            return _Saved(head, trained.verdict, data.champion, data.head_choice)


def _promote(context: JobContext, saved: _Saved, *, whatever_serves: bool) -> bool:
    """Let a head serve the project with the version that it fits; whether it does.

    Args:
        whatever_serves: instead of any other head; otherwise of the one that it was judged beside.
    """
    choice = document(LEARNED, Learned(learned=saved.head))
    with context.queue.holding(context.claim) as session:
        project = find_project(session, str(context.project_id), lock=True)
        if project.encoder_id != saved.champion:
            return False
        if project.head not in ((project.head if whatever_serves else saved.champion_head), choice):
            return False
        if project.head != choice:
            project.head = choice
            project.edition += 1
            project.updated_at = now()
        return True


def _stored(
    context: JobContext, version: UUID, examples: Sequence[Example]
) -> dict[UUID, Float16s]:
    stored: dict[UUID, Float16s] = {}
    with context.db.reading() as session:
        for portion in portions([example.image_id for example in examples]):
            query = select(Embedding.image_id, Embedding.vector).where(
                Embedding.encoder_id == version, Embedding.image_id.in_(portion)
            )
            stored.update((row[0], row[1]) for row in session.execute(query))
    return stored
