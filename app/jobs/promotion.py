"""Promotion by a job: embed all images with a version, then let it serve the project."""

from functools import partial
from typing import Literal, NamedTuple
from uuid import UUID

from app.jobs.context import JobContext
from app.sql.tables import Project
from handful.contract.jobs import Figure, JobResult, Progress, VerdictRead

Promote = Literal["auto", "never", "always"]


class TrainedVersion(NamedTuple):
    """The version that a job made."""

    version: UUID
    champion: UUID  # the version that served the project when the job started
    verdict: VerdictRead


class VersionResult(JobResult):
    """What became of a version."""

    version: UUID
    promoted: bool


class EmbeddingProgress(Progress):
    """How many images a version has embedded that had no embedding of it."""

    done: int
    left: int


def promote_if_better(
    context: JobContext, trained: TrainedVersion, promote: Promote
) -> VersionResult:
    """Promote a version as its verdict and the client say; the result of its job."""
    due = promote == "always" or (promote == "auto" and trained.verdict.better)
    instead_of = trained.champion if promote == "auto" else None
    promoted = due and promote_version(context, trained.version, instead_of=instead_of)
    if due and not promoted:
        context.message("another version was promoted meanwhile, so this one was not")
    outcome = "promoted" if promoted else "not promoted"
    return VersionResult(
        summary=f"version {trained.version} {outcome}; {trained.verdict.reason}",
        verdict=trained.verdict,
        version=trained.version,
        promoted=promoted,
    )


def promote_version(context: JobContext, version: UUID, *, instead_of: UUID | None = None) -> bool:
    """Embed all images with a version, telling how far it is, and let it serve the project.

    Args:
        instead_of: only if this version serves the project; False when another does.
    """
    encoder = context.through_outages(lambda: context.versions.load(version))
    unreadable: set[UUID] = set()
    while True:
        embedding = context.promotions.embed_missing(
            context.project_id, version, encoder, unreadable
        )
        # An outage ends the iterator; what is missing then is embedded in the next round.
        while (step := context.through_outages(partial(next, embedding, None))) is not None:
            context.metrics(_progress(*step))
        serves, serving = context.through_outages(
            lambda: _move(context, version, unreadable, instead_of)
        )
        if serves or (instead_of is not None and serving != instead_of):
            break
    if unreadable:
        context.message(f"{len(unreadable)} images cannot be read any more and have no embedding")
    return serves


def _move(
    context: JobContext, version: UUID, unreadable: set[UUID], instead_of: UUID | None
) -> tuple[bool, UUID]:
    """Whether the version serves the project now, and which one does."""
    with context.queue.holding(context.claim) as session:
        serves = context.promotions.move(
            session, context.project_id, version, unreadable, instead_of=instead_of
        )
        return serves, session.get_one(Project, context.project_id).encoder_id


def _progress(embedded: int, missing: int) -> EmbeddingProgress:
    total = embedded + missing
    return EmbeddingProgress(
        stage="embedding",
        share=embedded / max(1, total),
        title="embedding",
        figures=[Figure(name="embedded", value=embedded, unit=f"of {total} images")],
        done=embedded,
        left=missing,
    )
