"""Transduction: label the whole pool at once, learning from it, judged beside the head."""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session
from torch import Tensor

from app.jobs.context import Checked, JobContext, JobFailed
from app.jobs.kinds import kinds
from app.jobs.verdicts import verdict_document
from app.plugin_fields import forbid_extra
from app.prediction.predictor import Predictor, fit_predictor
from app.problems import EmptyPool, TooFewLabels
from app.sql.tables import Embedding, Image, Label, Project
from app.vectors.matrices import ROWS_PER_FETCH, Snapshot, Vectors
from models.heads import Head
from models.heads.kinds import heads
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

    def run(self, work: JobContext) -> dict[str, Any]:
        checkpoint = work.checkpoint()
        data = work.patiently(lambda: _gather(work))
        if checkpoint is not None and checkpoint["digest"] != data.digest:
            work.say("labels or images have changed since the checkpoint: starting over")
            checkpoint = None
        try:
            images = PartlyLabeled(
                data.everything.vectors,
                data.unlabeled,
                data.fitted.rows,
                data.fitted.targets,
                len(data.fitted.names),
                data.mean,
            )
            rescoring = CrossValidatedTransduction(images, self.alpha_tim)
            self._learn(work, rescoring, data, checkpoint)
        except Diverged as error:
            raise JobFailed(f"{error}; try a lower rate than {self.alpha_tim.rate:g}") from error
        verdict = _judge(rescoring, data.head)
        content, found = _predict(rescoring, data)
        digest = work.blobs.put(content)
        work.patiently(lambda: work.queue.keep_predictions(work.claim, digest))
        return found | {"skipped": data.skipped, "verdict": verdict}

    def _learn(
        self,
        work: JobContext,
        rescoring: CrossValidatedTransduction,
        data: "_Data",
        checkpoint: dict[str, Any] | None,
    ) -> None:
        """Go through all epochs; tell of the last one of each fold, and of each of the whole."""
        told = None
        if checkpoint is not None:
            rescoring.load(checkpoint["rescoring"])
        if checkpoint is not None or work.claim.checkpoint is None:
            told = work.patiently(lambda: work.queue.last_metrics(work.claim))
        work.running()
        seconds: list[float] = []
        for progress in rescoring:
            epoch = progress.epoch
            seconds.append(epoch.seconds)
            position = [progress.run, epoch.number]
            news = told is None or position > [told.get("run", 0), told.get("epoch", 0)]
            if news and (progress.fold is None or epoch.number == epoch.of):
                work.tell(_metrics(progress, seconds))
            work.keep(lambda: {"rescoring": rescoring.state(), "digest": data.digest})


class _Data(NamedTuple):
    """What a job learns from."""

    everything: Snapshot
    unlabeled: Tensor  # (N,) rows of the pool
    fitted: Predictor  # to all labels
    head: Head  # to fit to some of them
    mean: Tensor  # (D,) of the project's embeddings
    skipped: int  # images of the pool that have no embedding
    digest: str  # the same while nothing of it changes


def _gather(work: JobContext) -> _Data:
    with work.db.reading() as session:
        project = session.get_one(Project, work.project_id)
        query = select(Label.id, Label.name).where(Label.project_id == project.id)
        names = {row[0]: row[1] for row in session.execute(query)}
        pool = _count_pool(session, project)
    everything = Vectors(work.db, 0).everything(project.id, project.encoder_id)
    head: Head = heads[project.head["name"]](**project.head["options"])
    assert everything.mean is not None
    mean = everything.mean.vector
    fitted = fit_predictor(head, everything, mean if head.uses_mean else None, names)
    unlabeled = everything.rows(labeled=False)
    if not len(unlabeled):
        raise JobFailed("the pool has become empty: upload images without a label")
    known = hashlib.sha256(f"{project.encoder_id} {project.head}".encode())
    for part in (everything.ids, everything.codes):
        known.update(part.tobytes())
    known.update(str([(i, names.get(i)) for i in everything.label_ids]).encode())
    return _Data(
        everything,
        unlabeled,
        fitted,
        head,
        mean,
        max(0, pool - len(unlabeled)),
        known.hexdigest(),
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


def _metrics(progress: TransductionProgress, seconds: Sequence[float]) -> dict[str, Any]:
    epoch = progress.epoch
    left = (progress.runs - progress.run + 1) * epoch.of - epoch.number
    return {
        "stage": "transduction",
        "run": progress.run,
        "runs": progress.runs,
        "fold": progress.fold,
        "epoch": epoch.number,
        "epochs": epoch.of,
        "loss": epoch.loss,
        "cross_entropy": epoch.cross_entropy,
        "marginal_entropy": epoch.marginal,
        "conditional_entropy": epoch.conditional,
        "images_per_s": round(epoch.images / max(epoch.seconds, 1e-9), 1),
        "seconds_left": round(left * sum(seconds) / len(seconds), 1),
    }


def _judge(rescoring: CrossValidatedTransduction, head: Head) -> dict[str, Any]:
    verdict = rescoring.judge(head)
    if verdict is None:
        reason = "there are too few labels to judge it: two with two images each are needed"
        return {"better": False, "reason": reason, "images": 0, "against": {}}
    return {
        "better": verdict.better,
        "reason": verdict.reason,
        "images": len(rescoring.judged),
        "against": {"head": verdict_document(verdict)},
    }


def _predict(rescoring: CrossValidatedTransduction, data: _Data) -> tuple[bytes, dict[str, Any]]:
    """The pool's labels as JSON lines, and what they come to; a block of images at a time."""
    names, temperature = data.fitted.names, rescoring.temperature
    images = torch.zeros(len(names), dtype=torch.long)
    shares = torch.zeros(len(names), dtype=torch.float64)
    changed, lines = 0, io.BytesIO()
    for rows in torch.split(data.unlabeled, ROWS_PER_FETCH):
        probabilities = (rescoring.scores(rows) / temperature).softmax(dim=1)
        best = probabilities.max(dim=1)
        plain = data.fitted.head.probabilities(data.everything.vectors[rows].float()).argmax(dim=1)
        images += torch.bincount(best.indices, minlength=len(names))
        shares += probabilities.double().sum(dim=0)
        changed += int((best.indices != plain).sum())
        columns = (rows, best.indices, best.values, plain)
        for row, label, p, head in zip(*(c.tolist() for c in columns), strict=True):
            line = {
                "image": str(data.everything.image_id(row)),
                "label": names[label],
                "probability": round(p, 4),
                "head_label": names[head],
            }
            lines.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    count = len(data.unlabeled)
    told = zip(names, images.tolist(), (shares / count).tolist(), strict=True)
    return lines.getvalue(), {
        "images": count,
        "changed": changed,
        "labels": [{"label": n, "images": i, "share": round(s, 4)} for n, i, s in told],
    }
