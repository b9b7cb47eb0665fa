"""Transduction: label the whole pool at once, learning from it, judged beside the head."""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import BaseModel, Field
from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session
from torch import Tensor

from app.jobs.context import Checked, JobContext, JobFailed
from app.jobs.kinds import kinds
from app.jobs.training import LearningStep, RunProgress, learn, step_of_run
from app.jobs.verdicts import combine_verdicts, unjudged
from app.plugin_fields import forbid_extra
from app.prediction.predictor import Predictor, fit_predictor
from app.problems import EmptyPool, TooFewLabels
from app.sql.tables import Embedding, Image, Label, Project
from app.vectors.matrices import ROWS_PER_FETCH, Snapshot, Vectors
from handful.contract.jobs import JobResult, VerdictRead
from models.heads import Head
from models.training.loop import Diverged
from models.transduction.alpha_tim import AlphaTim, PartlyLabeled
from models.transduction.cross_validation import CrossValidatedTransduction, TransductionProgress


@kinds.register
@dataclass(frozen=True, kw_only=True)
class Transduce:
    """Label the whole pool at once, by prototypes that learn from it as well.

    What it predicts is a file to download, with what the head says beside it; no label is set, and
    `classify` stays as it is. Folds of the labeled images tell whether it is better than the head.
    """

    alpha_tim: Annotated[
        forbid_extra(AlphaTim),  # type: ignore[valid-type]
        Field(description="What is minimised, and how."),
    ] = field(default_factory=AlphaTim)

    def check(self, session: Session, project: Project) -> Checked:
        labels = session.scalars(
            select(func.count(Label.id)).where(
                Label.project_id == project.id, _embedded(project, Image.label_id == Label.id)
            )
        ).one()
        if labels < 2:
            raise TooFewLabels(
                f"{labels} label(s) have support images; register some for at least two"
            )
        in_pool = Image.label_id.is_(None)
        if not session.scalar(select(_embedded(project, in_pool))):
            images = _count_pool(session, project)
            raise EmptyPool(
                f"none of the {images} images in the pool has an embedding under version "
                f"{project.encoder_id}: upload them again, or promote a version, which embeds them"
                if images
                else "the pool is empty: upload images without a label"
            )
        return Checked(self, f"{project.encoder_id} {project.revision} {project.head}")

    def run(self, context: JobContext) -> "PoolLabels":
        material, transducer = learn(context, self)
        verdict = _judge(transducer.transduction, material.head)
        content, result = _predict(transducer.transduction, material, verdict)
        context.store(content, partial(context.queue.keep_file, use="predictions"))
        return result

    def gather(self, context: JobContext, packed: dict[str, Any] | None) -> "Transducible":
        """The labels and the pool as they are: predictions are for those of now."""
        return context.through_outages(lambda: _gather(context))

    def begin(
        self,
        context: JobContext,
        material: "Transducible",
        batch_size: int,
        state: dict[str, Any] | None,
    ) -> "Transducer":
        images = PartlyLabeled(
            material.everything.vectors,
            material.unlabeled,
            material.fitted.rows,
            material.fitted.targets,
            len(material.fitted.names),
            material.mean,
        )
        transduction = CrossValidatedTransduction(images, self.alpha_tim)
        if state is not None:
            transduction.load(state)
        return Transducer(transduction, self.alpha_tim.rate)


class Transducible(NamedTuple):
    """What a job learns from."""

    everything: Snapshot
    unlabeled: Tensor  # (N,) rows of the pool
    fitted: Predictor  # to all labels
    head: Head  # to fit to some of them
    mean: Tensor  # (D,) of the project's embeddings
    skipped: int  # images of the pool that have no embedding
    digest: str  # the same while nothing of it changes

    def pack(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {"digest": self.digest}


class TransduceProgress(RunProgress):
    """An epoch without the labels of a fold, or with all labels."""

    cross_entropy: float
    marginal_entropy: float
    conditional_entropy: float


class LabelShare(BaseModel):
    """How much of the pool gets a label."""

    label: str
    images: int
    share: float


class PoolLabels(JobResult):
    """What the pool's labels come to."""

    images: int
    changed: int
    labels: list[LabelShare]
    skipped: int
    verdict: VerdictRead


@dataclass(frozen=True)
class Transducer:
    """Tells the last epoch of each fold, and each epoch with all labels."""

    transduction: CrossValidatedTransduction
    rate: float

    def steps(self) -> Iterator[LearningStep]:
        try:
            yield from map(_step, self.transduction)
        except Diverged as error:
            raise JobFailed(f"{error}; try a lower rate than {self.rate:g}") from error

    def state(self) -> dict[str, Any]:
        return self.transduction.state()


def _gather(context: JobContext) -> Transducible:
    with context.db.reading() as session:
        project = session.get_one(Project, context.project_id)
        pool = _count_pool(session, project)
    revision = Vectors(context.db, 0).at_once(project.id, project.encoder_id)
    everything, names = revision.everything, revision.names
    head = context.learned_heads.build(project.head)
    assert everything.mean is not None
    mean = everything.mean.vector
    fitted = fit_predictor(head, everything, mean if head.uses_mean else None, names)
    unlabeled = everything.rows(labeled=False)
    if not len(unlabeled):
        raise JobFailed("the pool has become empty: upload images without a label")
    fingerprint = hashlib.sha256(f"{project.encoder_id} {project.head}".encode())
    for part in (everything.ids, everything.codes):
        fingerprint.update(part.tobytes())
    fingerprint.update(str([(i, names.get(i)) for i in everything.label_ids]).encode())
    return Transducible(
        everything,
        unlabeled,
        fitted,
        head,
        mean,
        max(0, pool - len(unlabeled)),
        fingerprint.hexdigest(),
    )


def _embedded(project: Project, which: Any) -> Any:
    """Whether there is an image of some kind that the project's encoder has embedded."""
    return exists().where(
        Image.project_id == project.id,
        which,
        Embedding.image_id == Image.id,
        Embedding.encoder_id == project.encoder_id,
    )


def _count_pool(session: Session, project: Project) -> int:
    query = select(func.count(Image.id))
    return session.scalars(
        query.where(Image.project_id == project.id, Image.label_id.is_(None))
    ).one()


def _step(progress: TransductionProgress) -> LearningStep:
    epoch = progress.epoch
    return step_of_run(
        TransduceProgress,
        progress,
        stage="transduction",
        title="the whole pool" if progress.fold is None else f"fold {progress.fold}",
        quiet=progress.fold is not None and epoch.number < epoch.of,
        cross_entropy=epoch.cross_entropy,
        marginal_entropy=epoch.marginal,
        conditional_entropy=epoch.conditional,
    )


def _judge(transduction: CrossValidatedTransduction, head: Head) -> VerdictRead:
    verdict = transduction.judge(head)
    if verdict is None:
        return unjudged(0)
    return combine_verdicts({"head": verdict}, len(transduction.judged))


def _predict(
    transduction: CrossValidatedTransduction, material: Transducible, verdict: VerdictRead
) -> tuple[bytes, PoolLabels]:
    """The pool's labels as JSON lines, and what they come to; a block of images at a time."""
    names, temperature = material.fitted.names, transduction.temperature
    images = torch.zeros(len(names), dtype=torch.long)
    shares = torch.zeros(len(names), dtype=torch.float64)
    changed, lines = 0, io.BytesIO()
    for rows in torch.split(material.unlabeled, ROWS_PER_FETCH):
        probabilities = (transduction.scores(rows) / temperature).softmax(dim=1)
        best = probabilities.max(dim=1)
        plain = material.fitted.head.probabilities(
            material.everything.vectors[rows].float()
        ).argmax(dim=1)
        images += torch.bincount(best.indices, minlength=len(names))
        shares += probabilities.double().sum(dim=0)
        changed += int((best.indices != plain).sum())
        columns = (rows, best.indices, best.values, plain)
        for row, label, p, head in zip(*(c.tolist() for c in columns), strict=True):
            line = {
                "image": str(material.everything.image_id(row)),
                "label": names[label],
                "probability": round(p, 4),
                "head_label": names[head],
            }
            lines.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    count = len(material.unlabeled)
    totals = zip(names, images.tolist(), (shares / count).tolist(), strict=True)
    return lines.getvalue(), PoolLabels(
        summary=f"{changed} of {count} images get another label than by the head; {verdict.reason}",
        verdict=verdict,
        images=count,
        changed=changed,
        labels=[LabelShare(label=n, images=i, share=round(s, 4)) for n, i, s in totals],
        skipped=material.skipped,
    )
