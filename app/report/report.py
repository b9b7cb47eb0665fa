"""Use cases: how good a project is, and whether its labels are enough."""

import threading
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

import torch
from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from app.prediction.cache import PredictorCache
from app.prediction.predictor import Predictor
from app.problems import TooFewLabels
from app.report.analysis import FEWEST_JUDGED, Analysis, analyse, read_propensities
from app.report.learned_images import count_learned_images
from app.sql.database import Database
from app.sql.lookups import find_project
from app.sql.tables import Annotation, Image, Label, Project
from models.evaluation.forecast import Sufficiency, enough
from models.evaluation.intervals import Interval
from models.evaluation.missing_mass import unseen_mass

MOST_ANALYSES = 16  # that are remembered


class LabelFigures(NamedTuple):
    """A label, and how well it is told from the others; None where nothing was judged."""

    label: str
    shots: int
    recall: Interval | None = None
    precision: Interval | None = None


class Report(NamedTuple):
    """How good a project is."""

    encoder_id: UUID
    head: dict[str, Any]
    support: int
    learned_images: int  # labeled ones that the version or head learned from
    pool: int
    labels: list[LabelFigures]
    unseen: Interval | None
    analysis: Analysis
    verdict: Sufficiency


@dataclass(frozen=True)
class Reports:
    """What can be asked of a project's labels."""

    db: Database
    predictors: PredictorCache
    _analyses: list[tuple[Predictor, Analysis]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def report(self, project_key: str, target: float | None = None) -> Report:
        """All figures; those that too few labels allow no answer to are None, and named.

        Args:
            target: the accuracy that is wanted.
        """
        with self.db.reading() as session:
            project = find_project(session, project_key)
            shots = _shots(session, project.id)
            learned = count_learned_images(session, project.id, project.encoder_id, project.head)
            pool = session.scalar(
                select(func.count()).where(Image.project_id == project.id, Image.label_id.is_(None))
            )
        analysis = self.analysis(project)
        unseen = _unseen(shots)
        verdict = (
            enough(analysis.accuracy, analysis.forecast, unseen, target=target)
            if analysis.accuracy
            else Sufficiency(None, f"it cannot be told yet: {analysis.missing[0]}")
        )
        return Report(
            project.encoder_id,
            project.head,
            sum(label.total for label in shots),
            learned,
            pool or 0,
            [
                LabelFigures(name, total, *analysis.figures.get(name, (None, None)))
                for name, total, _ in shots
            ],
            unseen,
            analysis,
            verdict,
        )

    def find_analysis(self, project_key: str) -> Analysis:
        """The analysis of a project by id or name."""
        with self.db.reading() as session:
            project = find_project(session, project_key)
        return self.analysis(project)

    def analysis(self, project: Project) -> Analysis:
        """What the labels say of themselves; computed again when they or the head have changed."""
        try:
            predictor = self.predictors.fitted(project)
        except TooFewLabels as problem:
            return Analysis(missing=[problem.detail])
        with self._lock:
            for basis, analysis in self._analyses:
                if basis is predictor:
                    return analysis
        with self.db.reading() as session:
            propensities = read_propensities(session, project.id)
        analysis = analyse(predictor, propensities)
        with self._lock:
            self._analyses.append((predictor, analysis))
            del self._analyses[:-MOST_ANALYSES]
        return analysis


class _Shots(NamedTuple):
    name: str
    total: int
    from_pool: int  # labeled one by one, not uploaded as support of the label


def _shots(session: Session, project_id: UUID) -> list[_Shots]:
    """How many images each label has, by name."""
    uploaded = select(Annotation.id).where(
        Annotation.image_id == Image.id, Annotation.source == "support"
    )
    from_pool = func.sum(case((Image.id.is_(None), 0), (uploaded.exists(), 0), else_=1))
    rows = session.execute(
        select(Label.name, func.count(Image.id), from_pool)
        .outerjoin(Image, Image.label_id == Label.id)
        .where(Label.project_id == project_id)
        .group_by(Label.id, Label.name)
        .order_by(Label.name)
    )
    return [_Shots(name, total, int(from_pool)) for name, total, from_pool in rows]


def _unseen(shots: list[_Shots]) -> Interval | None:
    """The share of images of labels that do not exist yet, from images labeled out of the pool."""
    counts = torch.tensor([label.from_pool for label in shots], dtype=torch.int64)
    uploaded = torch.tensor([label.total > label.from_pool for label in shots], dtype=torch.bool)
    return unseen_mass(counts, uploaded) if int(counts.sum()) >= FEWEST_JUDGED else None
