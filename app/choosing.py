"""Use cases of choosing what to label next: rank the pool, hand images out, look for similar ones.

Each one gathers, then computes, then writes: no transaction is open while a pool is ranked.
"""

import hashlib
import os
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sqlalchemy import Select, select, update
from sqlalchemy.orm import Session
from torch import Tensor

from app.cosines import Cosines
from app.db import Database, portions
from app.metadata import matching
from app.prediction import ProjectHead, ProjectHeads
from app.problems import ImageNotFound, StrategyRefused, TooFewLabels
from app.projects import find_project
from app.tables import Image, Label, Project, Reservation
from app.vectors import GONE, Snapshot, Vectors
from models.acquisition import AcquisitionStrategy, NoClasses, Pool, Ranking, of_labeled
from models.acquisition.batch import choose

ATTEMPTS = 20  # at reserving images that others reserve at the same time
SUGGESTIONS = 3  # labels that come with an image
ROWS_PER_BLOCK = 4096
RANKINGS_AT_ONCE = max(3, (os.cpu_count() or 1) // 4)
ID = np.dtype("V16")


class Wish(NamedTuple):
    """What to rank by, and which images to leave out."""

    strategy: AcquisitionStrategy
    budget: int
    label: str | None = None  # only images of which this label is the likeliest
    min_confidence: float = 0.0  # of the likeliest label
    max_confidence: float = 1.0
    uploaded_after: datetime | None = None
    uploaded_before: datetime | None = None
    metadata: Mapping[str, str | Sequence[str]] | None = None
    filename: str | None = None  # a part of it
    images: Collection[UUID] | None = None  # only these
    max_cosine: float | None = None
    balanced: bool = False

    @property
    def by_prediction(self) -> bool:
        """Whether it asks what the head makes of an image."""
        asks = self.label is not None or self.min_confidence > 0 or self.max_confidence < 1
        return asks or self.balanced

    @property
    def whole(self) -> bool:
        """Whether every image of the pool may be chosen, as the strategy alone would."""
        return self == Wish(self.strategy, self.budget)


class Suggestion(NamedTuple):
    """A label that an image may have."""

    label: str
    probability: float


class Ranked(NamedTuple):
    """An image worth labeling, or worth labeling again."""

    image_id: UUID
    label: str | None  # that it has
    score: float
    propensity: float | None  # with which it was drawn at random; None when it was chosen
    suggestions: list[Suggestion]  # likeliest first; none without two labels


class Handed(NamedTuple):
    """Images for one annotator, and until when."""

    encoder_id: UUID
    lease_until: datetime
    images: list[Ranked]


class Similar(NamedTuple):
    """An image that looks alike."""

    image_id: UUID
    label: str | None
    cosine: float


@dataclass(frozen=True)
class Choosing:
    """Everything the use cases need, wired once in `app.main`."""

    db: Database
    vectors: Vectors
    heads: ProjectHeads
    cosines: Cosines
    turns: threading.Semaphore = field(
        default_factory=lambda: threading.Semaphore(RANKINGS_AT_ONCE)
    )  # each needs memory for a block of the matrix, and a core

    def rank(self, project_key: str, wish: Wish) -> tuple[UUID, list[Ranked]]:
        """The encoder version, and the pool images most worth labeling, best first.

        Raises:
            TooFewLabels: the strategy or a filter needs two labels with support.
            StrategyRefused: the strategy cannot rank this pool; the detail says why.
        """
        with self.db.reading() as session:
            project = find_project(session, project_key)
        return project.encoder_id, self._rank(project, wish, taken=set(), avoided=set())

    def next(
        self, project_key: str, wish: Wish, *, annotator: str, lease_s: float, name: str
    ) -> Handed:
        """Hand images to an annotator that nobody else holds, nor this one has skipped.

        Args:
            name: of the strategy, to remember.

        Raises:
            TooFewLabels: as for `rank`.
            StrategyRefused: as for `rank`.
        """
        handed: list[Ranked] = []
        for _ in range(ATTEMPTS):
            with self.db.reading() as session:
                project = find_project(session, project_key)
                taken = set(session.scalars(_held(project.id, self.db.clock(session))))
                avoided = set(session.scalars(_skipped(project.id, annotator)))
                if of_labeled(wish.strategy):
                    avoided |= set(session.scalars(_answered(project.id, name)))
            left = wish._replace(budget=wish.budget - len(handed))
            ranked = self._rank(project, left, taken=taken, avoided=avoided)
            with self.db.writing() as session:
                project = find_project(session, str(project.id), lock=True)
                clock = self.db.clock(session)
                until = clock + timedelta(seconds=lease_s)
                _end_lapsed(session, project.id, clock)
                free = _free(session, project.id, ranked)
                got = [r for r in ranked if r.image_id in free]
                session.add_all(
                    Reservation(
                        project_id=project.id,
                        image_id=r.image_id,
                        annotator=annotator,
                        lease_until=until,
                        strategy=name,
                        propensity=r.propensity,
                    )
                    for r in got
                )
            handed += got
            if len(handed) >= wish.budget or len(got) == len(ranked):
                break
        return Handed(project.encoder_id, until, handed)

    def skip(self, project_key: str, images: Sequence[UUID], annotator: str) -> int:
        """Give images back that an annotator holds, who will not get them again; how many."""
        with self.db.writing() as session:
            project = find_project(session, project_key, lock=True)
            ended = session.execute(
                update(Reservation)
                .where(
                    Reservation.project_id == project.id,
                    Reservation.annotator == annotator,
                    Reservation.outcome.is_(None),
                    Reservation.image_id.in_(images),
                )
                .values(outcome="skipped")
                .returning(Reservation.id)
            )
            return len(ended.all())

    def similar(self, project_key: str, image_id: UUID, limit: int) -> list[Similar]:
        """The images closest to one, by exact search; itself left out.

        Raises:
            ImageNotFound: the project has no such image.
        """
        with self.db.reading() as session:
            project = find_project(session, project_key)
            query = select(Label.id, Label.name).where(Label.project_id == project.id)
            names = {row[0]: row[1] for row in session.execute(query)}
        everything = self.vectors.everything(project.id, project.encoder_id)
        row = _row(everything, image_id)
        if row is None:
            raise ImageNotFound(f"project {project.name!r} has no image {image_id}")
        cosines = _cosines(everything.vectors, row)
        cosines[torch.from_numpy(everything.codes == GONE)] = -torch.inf
        cosines[row] = -torch.inf
        best = cosines.topk(min(limit, len(cosines)))
        return [
            Similar(
                everything.image_id(other), _name(everything, other, names), max(-1, min(1, cosine))
            )
            for other, cosine in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            if cosine > -torch.inf
        ]

    def _rank(
        self, project: Project, wish: Wish, *, taken: set[UUID], avoided: set[UUID]
    ) -> list[Ranked]:
        with self.turns:
            return self._ranked(project, wish, taken, avoided)

    def _ranked(
        self, project: Project, wish: Wish, taken: set[UUID], avoided: set[UUID]
    ) -> list[Ranked]:
        fitted = self._fitted(project, needed=wish.strategy.needs_classes or wish.by_prediction)
        if fitted and of_labeled(wish.strategy):
            found = self._named(project, wish)
            return _rank_labeled(fitted, wish, taken | avoided, found)
        everything = self.vectors.everything(project.id, project.encoder_id)
        pool = self._pool(project, everything, fitted)
        rows = _without(everything, pool.rows, taken | avoided)
        reserved = [row for i in taken if (row := _row(everything, i)) is not None]
        pool = replace(pool, rows=rows, taken=torch.tensor(reserved, dtype=torch.long))
        pool = _filtered(pool, everything, fitted, wish, self._named(project, wish))
        if not len(pool):
            return []
        return _described(pool, everything, fitted, _choose(pool, wish), whole=wish.whole)

    def _named(self, project: Project, wish: Wish) -> NDArray[np.void] | None:
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

    def _fitted(self, project: Project, *, needed: bool) -> ProjectHead | None:
        try:
            return self.heads.fitted(project)
        except TooFewLabels:
            if needed:
                raise
            return None

    def _pool(self, project: Project, everything: Snapshot, fitted: ProjectHead | None) -> Pool:
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
    fitted: ProjectHead, wish: Wish, excluded: set[UUID], found: NDArray[np.void] | None
) -> list[Ranked]:
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
    pool = _filtered(pool, support, fitted, wish, found)
    ranking = _choose(pool, wish)
    place = {row: m for m, row in enumerate(fitted.rows.tolist())}
    chosen = [place[row] for row in pool.rows[ranking.indices].tolist()]
    if not chosen:
        return []
    left_out = fitted.head.leave_one_out(
        support.vectors[fitted.rows[chosen]], fitted.targets[chosen]
    )
    return [
        Ranked(
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


def _choose(pool: Pool, wish: Wish) -> Ranking:
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


def _row(everything: Snapshot, image_id: UUID) -> int | None:
    """The row of an image; ids are in order."""
    low, high, wanted = 0, len(everything.ids), image_id.bytes
    while low < high:
        middle = (low + high) // 2
        if everything.ids[middle].tobytes() < wanted:
            low = middle + 1
        else:
            high = middle
    found = low < len(everything.ids) and everything.ids[low].tobytes() == wanted
    return low if found and everything.codes[low] != GONE else None


def _without(everything: Snapshot, rows: Tensor, images: set[UUID]) -> Tensor:
    places = [row for i in images if (row := _row(everything, i)) is not None]
    free = torch.ones(len(everything.ids), dtype=torch.bool)
    free[places] = False
    return rows[free[rows]]


def _filtered(
    pool: Pool,
    everything: Snapshot,
    fitted: ProjectHead | None,
    wish: Wish,
    found: NDArray[np.void] | None,
) -> Pool:
    """What is left of a pool; `found` are the ids of images that may be chosen, if not all."""
    kept = torch.ones(len(pool), dtype=torch.bool)
    if found is not None:
        ids = everything.ids[pool.rows.numpy()].view(ID).squeeze(1)
        kept &= torch.from_numpy(np.isin(ids, found))
    if wish.uploaded_after or wish.uploaded_before:
        uploaded = _milliseconds(everything)[pool.rows.numpy()]
        if wish.uploaded_after:
            kept &= torch.from_numpy(uploaded >= wish.uploaded_after.timestamp() * 1000)
        if wish.uploaded_before:
            kept &= torch.from_numpy(uploaded < wish.uploaded_before.timestamp() * 1000)
    pool = pool.part(kept.nonzero().squeeze(1))
    asks = wish.label is not None or wish.min_confidence > 0 or wish.max_confidence < 1
    if fitted is None or not asks or not len(pool):
        return pool
    confidence = pool.score(lambda p: p.amax(dim=1))
    kept = (confidence >= wish.min_confidence) & (confidence <= wish.max_confidence)
    if wish.label is not None:
        wanted = fitted.names.index(wish.label) if wish.label in fitted.names else -1
        kept &= pool.score(lambda p: p.argmax(dim=1).float()) == wanted
    return pool.part(kept.nonzero().squeeze(1))


def _milliseconds(everything: Snapshot) -> np.ndarray:
    """When each image came: the first 48 bits of its UUIDv7."""
    powers = 256 ** np.arange(5, -1, -1, dtype=np.int64)
    return everything.ids[:, :6].astype(np.int64) @ powers


def _described(
    pool: Pool,
    everything: Snapshot,
    fitted: ProjectHead | None,
    ranking: Ranking,
    *,
    whole: bool,
) -> list[Ranked]:
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
        Ranked(everything.image_id(row), None, score, p if p and whole else None, suggested)
        for row, score, p, suggested in zip(
            rows.tolist(), ranking.scores.tolist(), drawn.tolist(), suggestions, strict=True
        )
    ]


def _suggestions(
    fitted: ProjectHead, probabilities: Float[Tensor, "K C"]
) -> list[list[Suggestion]]:
    """The likeliest labels of each image."""
    best = probabilities.topk(min(SUGGESTIONS, len(fitted.names)), dim=1)
    return [
        [Suggestion(fitted.names[c], p) for c, p in zip(labels, values, strict=True)]
        for labels, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _cosines(vectors: Tensor, row: int) -> Tensor:
    query = vectors[row].float()
    return torch.cat([block.float() @ query for block in torch.split(vectors, ROWS_PER_BLOCK)])


def _name(everything: Snapshot, row: int, names: dict[UUID, str]) -> str | None:
    code = int(everything.codes[row])
    return names.get(everything.label_ids[code]) if code >= 0 else None


def _held(project_id: UUID, clock: datetime) -> Select[UUID]:
    return select(Reservation.image_id).where(
        Reservation.project_id == project_id,
        Reservation.outcome.is_(None),
        Reservation.lease_until > clock,
    )


def _skipped(project_id: UUID, annotator: str) -> Select[UUID]:
    return select(Reservation.image_id).where(
        Reservation.project_id == project_id,
        Reservation.outcome == "skipped",
        Reservation.annotator == annotator,
    )


def _answered(project_id: UUID, strategy: str) -> Select[UUID]:
    """Images that were handed out by a strategy and got an answer."""
    return select(Reservation.image_id).where(
        Reservation.project_id == project_id,
        Reservation.outcome == "labeled",
        Reservation.strategy == strategy,
    )


def _end_lapsed(session: Session, project_id: UUID, clock: datetime) -> None:
    session.execute(
        update(Reservation)
        .where(
            Reservation.project_id == project_id,
            Reservation.outcome.is_(None),
            Reservation.lease_until <= clock,
        )
        .values(outcome="lapsed")
    )


def _free(session: Session, project_id: UUID, ranked: Sequence[Ranked]) -> set[UUID]:
    """Which images are still with or without a label, as ranked, and in nobody's hands."""
    held = select(Reservation.image_id).where(
        Reservation.project_id == project_id, Reservation.outcome.is_(None)
    )
    labeled = {r.image_id for r in ranked if r.label is not None}
    free: set[UUID] = set()
    for some in portions([r.image_id for r in ranked]):
        query = select(Image.id, Image.label_id).where(
            Image.project_id == project_id, Image.id.in_(some), Image.id.not_in(held)
        )
        free.update(
            image
            for image, label in session.execute(query)
            if (label is not None) == (image in labeled)
        )
    return free
