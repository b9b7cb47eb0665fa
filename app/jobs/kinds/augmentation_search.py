"""Search for an augmentation: on embeddings of the labeled images, without training an encoder."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

import torch
from sqlalchemy.orm import Session

from app.jobs.context import Checked, JobContext, JobFailed
from app.jobs.kinds import kinds
from app.jobs.training_data import (
    FEWEST,
    DecodedImages,
    Labeled,
    check_enough,
    labeled_images,
    snapshot,
)
from app.jobs.verdicts import verdict_document
from app.plugin_fields import plugin_field, plugins_from
from app.sql.tables import Project
from models.augmentation.kinds import augmentations
from models.augmentation_search import PolicyTrial, SearchResult
from models.augmentation_search.candidates import NOTHING, PolicyCandidate, PolicyScore, documents
from models.augmentation_search.proxy import Proxy, balanced
from models.augmentation_search.searches import searches
from models.encoders import Encoder
from models.evaluation.comparison import compare

SearchChoice: Any = plugin_field(searches)
SEARCH = {"name": "grid"}


@kinds.register
@dataclass(frozen=True, kw_only=True)
class AugmentationSearch:
    """Find an augmentation for the project's labels, for `augmentation` of a `finetune` job.

    The encoder stays frozen: it embeds augmented images, and linear heads on these show what
    helps. That takes seconds a trial, and is a hint of what fine-tuning would make of it.
    """

    search: SearchChoice = field(default_factory=lambda: plugins_from(SearchChoice, [SEARCH])[0])
    images: int = 500  # at most, of each label as many as of any other where there are
    views: int = 2  # augmented copies of each image
    folds: int = 3  # fewer where a label has fewer images
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 * FEWEST <= self.images <= 100_000:
            raise ValueError(f"images must be from {2 * FEWEST} to 100000, got {self.images}")
        if not 1 <= self.views <= 20:
            raise ValueError(f"views must be from 1 to 20, got {self.views}")
        if not 2 <= self.folds <= 20:
            raise ValueError(f"folds must be from 2 to 20, got {self.folds}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be from 0 to 2^31 - 1, got {self.seed}")

    def check(self, session: Session, project: Project) -> Checked:
        check_enough(session, project)
        return Checked(self, snapshot(session, project))

    def run(self, work: JobContext) -> dict[str, Any]:
        checkpoint = work.checkpoint()
        data = work.patiently(lambda: self._gather(work, checkpoint))
        encoder = work.patiently(lambda: work.versions.load(data.base))
        readable, images = work.decode(data.labeled, encoder)
        if readable != data.labeled:
            data, checkpoint = data._replace(labeled=readable), None
        try:
            proxy = self._proxy(encoder, images, data)
            proxy.load(checkpoint["judged"] if checkpoint else {})
            work.running()
            trials = self._try(work, proxy, data)
            return _result(self.search.options.choose(proxy, trials), proxy, data, len(trials))
        except ValueError as error:
            raise JobFailed(str(error)) from error
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise JobFailed(
                f"out of memory: use fewer images than {self.images}, fewer views, or a smaller "
                "encoder"
            ) from error

    def _gather(self, work: JobContext, checkpoint: dict[str, Any] | None) -> "_Data":
        """The images to judge with, fixed when the job first started."""
        if checkpoint is not None:
            return _Data.unpack(checkpoint["data"])
        with work.db.reading() as session:
            found = labeled_images(session, work.project_id)
            champion = session.get_one(Project, work.project_id).encoder_id
        chosen = balanced(found.targets, self.images, self.seed).tolist()
        return _Data(found.only(chosen), work.versions.base(champion))

    def _proxy(self, encoder: Encoder, images: DecodedImages, data: "_Data") -> Proxy:
        return Proxy(
            encoder,
            images,
            data.labeled.targets,
            limit=self.images,
            views=self.views,
            folds=self.folds,
            seed=self.seed,
        )

    def _try(self, work: JobContext, proxy: Proxy, data: "_Data") -> list[PolicyTrial]:
        """All trials; those that an earlier attempt judged are gone through at once."""
        told = work.patiently(lambda: work.queue.last_metrics(work.claim)) or {}
        proxy.judge(NOTHING)
        trials: list[PolicyTrial] = []
        seconds: list[float] = []
        started = time.monotonic()
        for trial in self.search.options.search(proxy):
            trials.append(trial)
            if trial.number > told.get("trial", 0):
                seconds.append(time.monotonic() - started)
                work.tell(_metrics(trial, data, seconds))
                work.keep(lambda: {"judged": proxy.state(), "data": data.pack()})
            started = time.monotonic()
        return trials


class _Data(NamedTuple):
    """What a job judges with."""

    labeled: Labeled
    base: UUID  # the version that has not seen the labels

    def pack(self) -> dict[str, Any]:
        return {"examples": self.labeled.pack(), "base": str(self.base)}

    @classmethod
    def unpack(cls, packed: dict[str, Any]) -> "_Data":
        return cls(Labeled.unpack(packed["examples"]), UUID(packed["base"]))


def _metrics(trial: PolicyTrial, data: _Data, seconds: Sequence[float]) -> dict[str, Any]:
    left = (trial.of - trial.number) * sum(seconds) / len(seconds)
    return {
        "stage": "search",
        "trial": trial.number,
        "trials": trial.of,
        "policy": _policy(trial.candidate, data),
        **_rated(trial.judged),
        "seconds_left": round(left, 1),
    }


def _result(found: SearchResult, proxy: Proxy, data: _Data, trials: int) -> dict[str, Any]:
    """What to fine-tune with, and how it did against what there is without a search."""
    trivial = proxy.judge(PolicyCandidate((augmentations["trivialaugment"](),)))
    against = {
        found.against: found.verdict,
        "trivialaugment": compare(found.right, trivial.right, proxy.targets),
    }
    return {
        **_policy(found.candidate, data),
        **_rated(found.judged),
        "baseline": _rated(proxy.judge(NOTHING)),
        "accepted": found.verdict.better,
        "verdict": {
            "better": found.verdict.better,
            "reason": found.verdict.reason,
            "images": len(proxy.targets),
            "against": {name: verdict_document(verdict) for name, verdict in against.items()},
        },
        "trials": trials,
    }


def _policy(candidate: PolicyCandidate, data: _Data) -> dict[str, Any]:
    """As a `finetune` job takes it."""
    return {
        "augmentation": documents(candidate.policy),
        "per_class": {
            data.labeled.names[n]: documents(policy) for n, policy in candidate.per_class
        },
    }


def _rated(judged: PolicyScore) -> dict[str, float]:
    return {"score": round(judged.score, 4), "accuracy": round(judged.accuracy, 4)}
