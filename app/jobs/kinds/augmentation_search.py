"""Search for an augmentation: on embeddings of the labeled images, without training an encoder."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.jobs.context import Checked, JobContext, JobFailed
from app.jobs.decoded_images import Material, decode_labeled
from app.jobs.kinds import kinds
from app.jobs.training import LearningStep, learn
from app.jobs.training_data import FEWEST, Labeled, check_enough, gather, labels_fingerprint
from app.jobs.verdicts import combine_verdicts
from app.plugin_fields import plugin_field, plugins_from
from app.sql.tables import Project
from handful.contract.jobs import Figure, JobResult, Progress, VerdictRead
from models.augmentation.kinds import augmentations
from models.augmentation_search import PolicyTrial, Search, SearchResult
from models.augmentation_search.candidates import NOTHING, PolicyCandidate, PolicyScore, documents
from models.augmentation_search.proxy import Proxy, balanced
from models.augmentation_search.searches import searches
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
        return Checked(self, labels_fingerprint(session, project))

    def run(self, context: JobContext) -> "SearchedAugmentation":
        try:
            material, searcher = learn(context, self)
            outcome = self.search.options.choose(searcher.proxy, searcher.trials)
            return _result(outcome, searcher, material.data.labeled)
        except ValueError as error:
            raise JobFailed(str(error)) from error
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise JobFailed(
                f"out of memory: use fewer images than {self.images}, fewer views, or a smaller "
                "encoder"
            ) from error

    def gather(self, context: JobContext, packed: dict[str, Any] | None) -> Material:
        data = gather(context, packed)
        if packed is None:
            sample = balanced(data.labeled.targets, self.images, self.seed).tolist()
            data = replace(data, labeled=data.labeled.only(sample))
        return decode_labeled(context, data)

    def begin(
        self,
        context: JobContext,
        material: Material,
        batch_size: int,
        state: dict[str, Any] | None,
    ) -> "Searcher":
        proxy = Proxy(
            material.encoder,
            material.images,
            material.data.labeled.targets,
            limit=self.images,
            views=self.views,
            folds=self.folds,
            seed=self.seed,
        )
        proxy.load(state or {})
        return Searcher(self.search.options, proxy, material.data.labeled)


class PolicyRead(BaseModel):
    """An augmentation as a `finetune` job takes it."""

    augmentation: list[dict[str, Any]]
    per_class: dict[str, list[dict[str, Any]]]


class PolicyRating(BaseModel):
    """How an augmentation did on held-out images."""

    score: float
    accuracy: float


class SearchProgress(Progress):
    """An augmentation that was tried."""

    trial: int
    trials: int
    policy: PolicyRead
    score: float
    accuracy: float


class SearchedAugmentation(JobResult):
    """What to fine-tune with, and how it did against what there is without a search."""

    augmentation: list[dict[str, Any]]
    per_class: dict[str, list[dict[str, Any]]]
    score: float
    accuracy: float
    baseline: PolicyRating
    accepted: bool
    verdict: VerdictRead
    trials: int


class Searcher:
    """Tells the trials of a search; those that an earlier attempt judged take no time."""

    def __init__(self, search: Search, proxy: Proxy, labeled: Labeled) -> None:
        self.proxy = proxy
        self.trials: list[PolicyTrial] = []
        self._search = search
        self._labeled = labeled

    def steps(self) -> Iterator[LearningStep]:
        self.proxy.judge(NOTHING)
        started = time.monotonic()
        for trial in self._search.search(self.proxy):
            self.trials.append(trial)
            seconds = time.monotonic() - started
            yield LearningStep(_progress(trial, self._labeled), seconds, trial.of - trial.number)
            started = time.monotonic()

    def state(self) -> dict[str, Any]:
        return self.proxy.state()


def _progress(trial: PolicyTrial, labeled: Labeled) -> SearchProgress:
    rating = _rating(trial.judged)
    return SearchProgress(
        stage="search",
        share=trial.number / trial.of,
        title=f"trial {trial.number} of {trial.of}",
        figures=[
            Figure(name="score", value=rating.score),
            Figure(name="held-out accuracy", value=rating.accuracy, unit="share"),
        ],
        trial=trial.number,
        trials=trial.of,
        policy=_policy(trial.candidate, labeled),
        score=rating.score,
        accuracy=rating.accuracy,
    )


def _result(outcome: SearchResult, searcher: Searcher, labeled: Labeled) -> SearchedAugmentation:
    proxy, policy = searcher.proxy, _policy(outcome.candidate, labeled)
    trivial = proxy.judge(PolicyCandidate((augmentations["trivialaugment"](),)))
    rating = _rating(outcome.judged)
    verdict = combine_verdicts(
        {outcome.against: outcome.verdict},
        len(proxy.targets),
        beside={"trivialaugment": compare(outcome.right, trivial.right, proxy.targets)},
    )
    names = " and ".join(operation["name"] for operation in policy.augmentation)
    exceptions = f", of their own for {', '.join(policy.per_class)}" if policy.per_class else ""
    return SearchedAugmentation(
        summary=f"{names}{exceptions}; {verdict.reason}",
        verdict=verdict,
        augmentation=policy.augmentation,
        per_class=policy.per_class,
        score=rating.score,
        accuracy=rating.accuracy,
        baseline=_rating(proxy.judge(NOTHING)),
        accepted=verdict.better,
        trials=len(searcher.trials),
    )


def _policy(candidate: PolicyCandidate, labeled: Labeled) -> PolicyRead:
    return PolicyRead(
        augmentation=documents(candidate.policy),
        per_class={labeled.names[n]: documents(policy) for n, policy in candidate.per_class},
    )


def _rating(judged: PolicyScore) -> PolicyRating:
    return PolicyRating(score=round(judged.score, 4), accuracy=round(judged.accuracy, 4))
