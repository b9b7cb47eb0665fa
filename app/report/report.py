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
from app.sql.database import Database
from app.sql.lookups import find_project
from app.sql.tables import Annotation, Image, Label, Project
from models.evaluation.forecast import Sufficiency, enough
from models.evaluation.intervals import Interval
from models.evaluation.missing_mass import unseen_mass

ANALYSES_KEPT = 16


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
    _kept: list[tuple[Predictor, Analysis]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def report(self, project_key: str, target: float | None = None) -> Report:
        """All figures; those that too few labels allow no answer to are None, and named.

        Args:
            target: the accuracy that is wanted.
        """
        with self.db.reading() as session:
            project = find_project(session, project_key)
            shots = _shots(session, project.id)
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
            sum(one.total for one in shots),
            pool or 0,
            [
                LabelFigures(one.name, one.total, *analysis.figures.get(one.name, (None, None)))
                for one in shots
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
            fitted = self.predictors.fitted(project)
        except TooFewLabels as problem:
            return Analysis(missing=[problem.detail])
        with self._lock:
            for known, analysis in self._kept:
                if known is fitted:
                    return analysis
        with self.db.reading() as session:
            propensities = read_propensities(session, project.id)
        analysis = analyse(fitted, propensities)
        with self._lock:
            self._kept.append((fitted, analysis))
            del self._kept[:-ANALYSES_KEPT]
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
    return [_Shots(name, total, int(drawn)) for name, total, drawn in rows]


def _unseen(shots: list[_Shots]) -> Interval | None:
    """The share of images of labels that do not exist yet, from images labeled out of the pool."""
    drawn = torch.tensor([one.from_pool for one in shots], dtype=torch.int64)
    known = torch.tensor([one.total > one.from_pool for one in shots], dtype=torch.bool)
    return unseen_mass(drawn, known) if int(drawn.sum()) >= FEWEST_JUDGED else None
