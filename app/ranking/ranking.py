"""Use case: rank the pool by how useful a label would be.

It gathers, then computes: no transaction is open while a pool is ranked.
"""

import hashlib
import os
import threading
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from uuid import UUID

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sqlalchemy import select
from torch import Tensor

from app.labeling.metadata import matching
from app.prediction.cache import PredictorCache
from app.prediction.predictor import Predictor
from app.problems import StrategyRefused, TooFewLabels
from app.ranking.cosine_cache import Cosines
from app.ranking.filters import ID, RankQuery, matching_pool, row_of, without
from app.sql.database import Database
from app.sql.lookups import find_project
from app.sql.tables import Image, Label, Project
from app.vectors.matrices import Snapshot, Vectors
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

    def rank(self, project_key: str, wish: RankQuery) -> tuple[UUID, list[RankedImage]]:
        """The encoder version, and the pool images most worth labeling, best first.

        Raises:
            TooFewLabels: the strategy or a filter needs two labels with support.
            StrategyRefused: the strategy cannot rank this pool; the detail says why.
        """
        with self.db.reading() as session:
            project = find_project(session, project_key)
        return project.encoder_id, self.rank_project(project, wish, taken=set(), avoided=set())

    def rank_project(
        self, project: Project, wish: RankQuery, *, taken: set[UUID], avoided: set[UUID]
    ) -> list[RankedImage]:
        with self.turns:
            return self._ranked(project, wish, taken, avoided)

    def _ranked(
        self, project: Project, wish: RankQuery, taken: set[UUID], avoided: set[UUID]
    ) -> list[RankedImage]:
        fitted = self._fitted(project, needed=wish.strategy.needs_classes or wish.by_prediction)
        if fitted and of_labeled(wish.strategy):
            found = self._named(project, wish)
            return _rank_labeled(fitted, wish, taken | avoided, found)
        everything = self.vectors.everything(project.id, project.encoder_id)
        pool = self._pool(project, everything, fitted)
        rows = without(everything, pool.rows, taken | avoided)
        reserved = [row for i in taken if (row := row_of(everything, i)) is not None]
        pool = replace(pool, rows=rows, pending=torch.tensor(reserved, dtype=torch.long))
        pool = matching_pool(pool, everything, fitted, wish, self._named(project, wish))
        if not len(pool):
            return []
        return _described(pool, everything, fitted, _choose(pool, wish), whole=wish.whole)

    def _named(self, project: Project, wish: RankQuery) -> NDArray[np.void] | None:
        """The ids of the images that are wished for by what they are; None if all will do."""
        chosen = None
        if wish.images is not None:
            chosen = np.frombuffer(b"".join(image.bytes for image in wish.images), ID)
        conditions = matching(wish.metadata or {}, wish.filename)
        if not conditions:
            return chosen
        query = select(Image.id).where(Image.project_id == project.id, *conditions)
        with self.db.reading() as session:
            found = np.frombuffer(b"".join(image.bytes for image in session.scalars(query)), ID)
        return found if chosen is None else np.intersect1d(found, chosen)

    def _fitted(self, project: Project, *, needed: bool) -> Predictor | None:
        try:
            return self.predictors.fitted(project)
        except TooFewLabels:
            if needed:
                raise
            return None

    def _pool(self, project: Project, everything: Snapshot, fitted: Predictor | None) -> Pool:
        with self.db.reading() as session:
            query = select(Label.id, Label.name).where(Label.project_id == project.id)
            names = {row[0]: row[1] for row in session.execute(query)}
        labeled = everything.rows(labeled=True)
        codes = torch.from_numpy(everything.codes)[labeled].long()
        used = sorted(set(codes.tolist()), key=lambda c: names.get(everything.label_ids[c], ""))
        target_of = torch.zeros(len(everything.label_ids), dtype=torch.long)
        for target, code in enumerate(used):
            target_of[code] = target
        mean = everything.mean
        assert mean is not None
        return Pool(
            embeddings=everything.vectors,
            rows=everything.rows(labeled=False),
            probabilities=fitted.head.probabilities if fitted else None,
            labeled=labeled,
            targets=target_of[codes],
            mean=fitted.head.mean if fitted else mean.vector,
            names=tuple(names.get(everything.label_ids[code], "") for code in used),
            unseen=max(0, len(names) - len(used)),
            skill=(lambda: fitted.skill) if fitted else None,
            shortcut=self.cosines.shortcut(
                (project.id, project.encoder_id), everything, fitted.head
            )
            if fitted
            else None,
            seed=_seed(project),
        )


def _rank_labeled(
    fitted: Predictor, wish: RankQuery, excluded: set[UUID], found: NDArray[np.void] | None
) -> list[RankedImage]:
    """Labeled images, each with what the head says without it.

    Raises:
        StrategyRefused: what is wished for is said of images without a label.
    """
    if wish.by_prediction or wish.max_cosine is not None:
        raise StrategyRefused(
            "this strategy ranks labeled images; label, confidence, max_cosine and balanced are "
            "for those without a label: leave them out"
        )
    support = fitted.support
    asked = [support.image_id(row) not in excluded for row in fitted.rows.tolist()]
    pool = Pool(
        embeddings=support.vectors,
        rows=fitted.rows[torch.tensor(asked)],
        probabilities=fitted.head.probabilities,
        labeled=fitted.rows,
        targets=fitted.targets,
        names=tuple(fitted.names),
        left_out=fitted.left_out,
    )
    pool = matching_pool(pool, support, fitted, wish, found)
    ranking = _choose(pool, wish)
    place = {row: m for m, row in enumerate(fitted.rows.tolist())}
    chosen = [place[row] for row in pool.rows[ranking.indices].tolist()]
    if not chosen:
        return []
    left_out = fitted.head.leave_one_out(
        support.vectors[fitted.rows[chosen]], fitted.targets[chosen]
    )
    return [
        RankedImage(
            support.image_id(int(fitted.rows[m])),
            fitted.names[int(fitted.targets[m])],
            score,
            None,
            suggested,
        )
        for m, score, suggested in zip(
            chosen,
            ranking.scores.tolist(),
            _suggestions(fitted, left_out.softmax(dim=1)),
            strict=True,
        )
    ]


def _choose(pool: Pool, wish: RankQuery) -> Ranking:
    try:
        return choose(
            wish.strategy, pool, wish.budget, max_cosine=wish.max_cosine, balanced=wish.balanced
        )
    except NoClasses as error:
        raise TooFewLabels(f"{error}; register some for at least two") from error
    except ValueError as error:
        raise StrategyRefused(str(error)) from error


def _seed(project: Project) -> int:
    """The same for the same state of a project, also after a restart."""
    digest = hashlib.sha256(f"{project.id} {project.revision}".encode()).digest()
    return int.from_bytes(digest[:4])


def _described(
    pool: Pool,
    everything: Snapshot,
    fitted: Predictor | None,
    ranking: Ranking,
    *,
    whole: bool,
) -> list[RankedImage]:
    rows = pool.rows[ranking.indices]
    drawn = ranking.propensities
    if drawn is None:
        drawn = torch.zeros(len(rows))
    suggestions: list[list[Suggestion]] = [[] for _ in rows]
    if fitted is not None and len(rows):
        probabilities = fitted.head.probabilities(everything.vectors[rows].float())
        suggestions = _suggestions(fitted, probabilities)
    # Drawn from a part of the pool, it says nothing of the whole.
    return [
        RankedImage(everything.image_id(row), None, score, p if p and whole else None, suggested)
        for row, score, p, suggested in zip(
            rows.tolist(), ranking.scores.tolist(), drawn.tolist(), suggestions, strict=True
        )
    ]


def _suggestions(fitted: Predictor, probabilities: Float[Tensor, "K C"]) -> list[list[Suggestion]]:
    """The likeliest labels of each image."""
    best = probabilities.topk(min(SUGGESTIONS, len(fitted.names)), dim=1)
    return [
        [Suggestion(fitted.names[c], p) for c, p in zip(labels, values, strict=True)]
        for labels, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
