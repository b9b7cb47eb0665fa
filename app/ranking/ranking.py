"""Use case: rank the pool by how useful a label would be.

It gathers, then computes: no transaction is open while a pool is ranked.
"""

import hashlib
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from uuid import UUID

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sqlalchemy import select
from torch import Tensor

from app.prediction.cache import PredictorCache
from app.prediction.predictor import Predictor
from app.problems import StrategyRefused, TooFewLabels
from app.ranking.cosine_cache import Cosines
from app.ranking.filters import ID, RankQuery, matching_pool, rows_of, without
from app.sql.database import Database
from app.sql.lookups import find_project, images_with
from app.sql.tables import Image, Project
from app.vectors.matrices import Revision, Snapshot, Vectors
from models.acquisition import NoClasses, Pool, Ranking, of_labeled
from models.acquisition.batch import choose

SUGGESTIONS = 3  # labels that come with an image
RANKINGS_AT_ONCE = max(3, (os.cpu_count() or 1) // 4)


class Suggestion(NamedTuple):
    """A label that an image may have."""

    label: str
    probability: float


class RankedImage(NamedTuple):
    """An image worth labeling, or worth labeling again."""

    image_id: UUID
    label: str | None  # that it has
    score: float
    propensity: float | None  # with which it was drawn at random; None when it was chosen
    suggestions: list[Suggestion]  # likeliest first; none without two labels


@dataclass(frozen=True)
class Ranker:
    """Ranks pools, some at a time."""

    db: Database
    vectors: Vectors
    predictors: PredictorCache
    cosines: Cosines
    turns: threading.Semaphore = field(
        default_factory=lambda: threading.Semaphore(RANKINGS_AT_ONCE)
    )  # each needs memory for a block of the matrix, and a core

    def rank(self, project_key: str, query: RankQuery) -> tuple[UUID, list[RankedImage]]:
        """The encoder version, and the pool images most worth labeling, best first.

        Raises:
            TooFewLabels: the strategy or a filter needs two labels with support.
            StrategyRefused: the strategy cannot rank this pool; the detail says why.
        """
        with self.db.reading() as session:
            project = find_project(session, project_key)
        return project.encoder_id, self.rank_project(project, query, reserved=set(), avoided=set())

    def rank_project(
        self, project: Project, query: RankQuery, *, reserved: set[UUID], avoided: set[UUID]
    ) -> list[RankedImage]:
        """The images of a project most worth labeling, best first.

        Args:
            reserved: images that somebody holds; the strategy counts them as labeled soon.
            avoided: images to leave out.
        """
        with self.turns:
            needed = query.strategy.needs_classes or query.by_prediction
            revision = self.vectors.at_once(project.id, project.encoder_id)
            predictor = self._predictor(project, revision, needed=needed)
            candidates = self._candidates(project, query)
            if predictor and of_labeled(query.strategy):
                return _rank_labeled(predictor, query, reserved | avoided, candidates)
            snapshot = revision.everything
            pool = self._pool(project, revision, predictor)
            pool = replace(
                pool,
                rows=without(snapshot, pool.rows, reserved | avoided),
                pending=torch.tensor(rows_of(snapshot, reserved), dtype=torch.long),
            )
            pool = matching_pool(pool, snapshot, predictor, query, candidates)
            if not len(pool):
                return []
            ranking = _choose(pool, query)
            return _describe(pool, snapshot, predictor, ranking, whole=query.whole)

    def _candidates(self, project: Project, query: RankQuery) -> NDArray[np.void] | None:
        """The ids of the images that are asked for by what they are; None if all will do."""
        named = None if query.images is None else _packed(query.images)
        conditions = images_with(query.metadata or {}, query.filename)
        if not conditions:
            return named
        images = select(Image.id).where(Image.project_id == project.id, *conditions)
        with self.db.reading() as session:
            candidates = _packed(session.scalars(images))
        return candidates if named is None else np.intersect1d(candidates, named)

    def _predictor(self, project: Project, revision: Revision, *, needed: bool) -> Predictor | None:
        try:
            return self.predictors.fitted(project, revision)
        except TooFewLabels:
            if needed:
                raise
            return None

    def _pool(self, project: Project, revision: Revision, predictor: Predictor | None) -> Pool:
        snapshot, names = revision.everything, revision.names
        labeled = snapshot.rows(labeled=True)
        codes = torch.from_numpy(snapshot.codes)[labeled].long()
        used = sorted(set(codes.tolist()), key=lambda c: names.get(snapshot.label_ids[c], ""))
        target_of = torch.zeros(len(snapshot.label_ids), dtype=torch.long)
        for target, code in enumerate(used):
            target_of[code] = target
        mean = snapshot.mean
        assert mean is not None
        pool = Pool(
            embeddings=snapshot.vectors,
            rows=snapshot.rows(labeled=False),
            probabilities=None,
            labeled=labeled,
            targets=target_of[codes],
            mean=mean.vector,
            names=tuple(names.get(snapshot.label_ids[code], "") for code in used),
            unseen=max(0, len(names) - len(used)),
            seed=_seed(project.id, revision.number),
        )
        if predictor is None:
            return pool
        head, key = predictor.head, (project.id, project.encoder_id)
        return replace(
            pool,
            probabilities=head.probabilities,
            mean=head.mean,
            skill=lambda: predictor.skill,
            shortcut=self.cosines.shortcut(key, snapshot, head),
        )


def _packed(images: Iterable[UUID]) -> NDArray[np.void]:
    """Ids as numpy compares them."""
    return np.frombuffer(b"".join(image.bytes for image in images), ID)


def _rank_labeled(
    predictor: Predictor,
    query: RankQuery,
    excluded: set[UUID],
    candidates: NDArray[np.void] | None,
) -> list[RankedImage]:
    """Labeled images, each with what the head says without it.

    Raises:
        StrategyRefused: what is asked for is said of images without a label.
    """
    if query.by_prediction or query.max_cosine is not None:
        raise StrategyRefused(
            "this strategy ranks labeled images; label, confidence, max_cosine and balanced are "
            "for those without a label: leave them out"
        )
    support = predictor.support
    included = [support.image_id(row) not in excluded for row in predictor.rows.tolist()]
    pool = Pool(
        embeddings=support.vectors,
        rows=predictor.rows[torch.tensor(included)],
        probabilities=predictor.head.probabilities,
        labeled=predictor.rows,
        targets=predictor.targets,
        names=tuple(predictor.names),
        left_out=predictor.left_out,
    )
    pool = matching_pool(pool, support, predictor, query, candidates)
    ranking = _choose(pool, query)
    place = {row: m for m, row in enumerate(predictor.rows.tolist())}
    members = [place[row] for row in pool.rows[ranking.indices].tolist()]
    return _describe_labeled(predictor, members, ranking.scores.tolist()) if members else []


def _describe_labeled(
    predictor: Predictor, members: list[int], scores: list[float]
) -> list[RankedImage]:
    """Support images by their numbers, each with what the head suggests without it."""
    rows, targets = predictor.rows[members], predictor.targets[members]
    logits = predictor.head.leave_one_out(predictor.support.vectors[rows], targets)
    suggestions = _suggestions(predictor, logits.softmax(dim=1))
    return [
        RankedImage(
            predictor.support.image_id(row), predictor.names[target], score, None, suggested
        )
        for row, target, score, suggested in zip(
            rows.tolist(), targets.tolist(), scores, suggestions, strict=True
        )
    ]


def _choose(pool: Pool, query: RankQuery) -> Ranking:
    try:
        return choose(
            query.strategy,
            pool,
            query.budget,
            max_cosine=query.max_cosine,
            balanced=query.balanced,
        )
    except NoClasses as error:
        raise TooFewLabels(f"{error}; register some for at least two") from error
    except ValueError as error:
        raise StrategyRefused(str(error)) from error


def _seed(project_id: UUID, revision: int) -> int:
    """The same for the same state of a project, also after a restart."""
    digest = hashlib.sha256(f"{project_id} {revision}".encode()).digest()
    return int.from_bytes(digest[:4])


def _describe(
    pool: Pool,
    snapshot: Snapshot,
    predictor: Predictor | None,
    ranking: Ranking,
    *,
    whole: bool,
) -> list[RankedImage]:
    """Pool images as ranked, each with what the head suggests."""
    rows = pool.rows[ranking.indices]
    propensities = ranking.propensities
    if propensities is None:
        propensities = torch.zeros(len(rows))
    suggestions: list[list[Suggestion]] = [[] for _ in rows]
    if predictor is not None and len(rows):
        probabilities = predictor.head.probabilities(snapshot.vectors[rows].float())
        suggestions = _suggestions(predictor, probabilities)
    # Drawn from a part of the pool, it says nothing of the whole.
    return [
        RankedImage(snapshot.image_id(row), None, score, p if p and whole else None, suggested)
        for row, score, p, suggested in zip(
            rows.tolist(), ranking.scores.tolist(), propensities.tolist(), suggestions, strict=True
        )
    ]


def _suggestions(
    predictor: Predictor, probabilities: Float[Tensor, "K C"]
) -> list[list[Suggestion]]:
    """The likeliest labels of each image."""
    best = probabilities.topk(min(SUGGESTIONS, len(predictor.names)), dim=1)
    return [
        [Suggestion(predictor.names[c], p) for c, p in zip(labels, values, strict=True)]
        for labels, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
