"""Use case: where images lie, in two dimensions."""

from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import torch
from jaxtyping import Float, Int
from sqlalchemy import select
from torch import Tensor

from app.prediction.cache import PredictorCache
from app.prediction.predictor import Predictor
from app.problems import TooFewLabels
from app.sql.database import Database
from app.sql.lookups import find_project
from app.sql.tables import Label
from app.vectors.matrices import Snapshot, Vectors
from models.embeddings.pca import principal_components

MOST_DRAWN = 3000  # images of the map


class MapPoint(NamedTuple):
    """An image in two dimensions."""

    image_id: UUID
    x: float
    y: float
    label: str | None  # its own, or the likeliest
    doubt: float | None  # 1 - probability of the likeliest; None for a support image


class Map(NamedTuple):
    """Pool and support in two dimensions."""

    points: list[MapPoint]
    explained: tuple[float, float]  # share of the variance along each axis
    images: int  # that there are; a random part is drawn of more than `MOST_DRAWN`


def likeliest_labels(
    everything: Snapshot,
    rows: Int[Tensor, " K"],
    vectors: Float[Tensor, "K D"],
    names: dict[UUID, str],
    fitted: Predictor | None,
) -> list[tuple[str | None, float | None]]:
    """Of each image its label, or the likeliest one and the doubt about it."""
    own = [
        names.get(everything.label_ids[code]) if code >= 0 else None
        for code in everything.codes[rows.numpy()].tolist()
    ]
    if fitted is None:
        return [(label, None) for label in own]
    confidence, likeliest = fitted.head.probabilities(vectors).max(dim=1)
    return [
        (label, None) if label is not None else (fitted.names[c], 1 - p)
        for label, c, p in zip(own, likeliest.tolist(), confidence.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class ImageMaps:
    """Maps of projects."""

    db: Database
    vectors: Vectors
    predictors: PredictorCache

    def draw(self, project_key: str, seed: int = 0) -> Map:
        """Where images lie, along the two directions in which their embeddings vary most."""
        with self.db.reading() as session:
            project = find_project(session, project_key)
            query = select(Label.id, Label.name).where(Label.project_id == project.id)
            names = {row[0]: row[1] for row in session.execute(query)}
        everything = self.vectors.everything(project.id, project.encoder_id)
        try:
            fitted = self.predictors.fitted(project)
        except TooFewLabels:
            fitted = None
        rows = torch.cat([everything.rows(labeled=True), everything.rows(labeled=False)])
        chance = torch.Generator().manual_seed(seed)
        drawn = rows[torch.randperm(len(rows), generator=chance)[:MOST_DRAWN]].sort().values
        if len(drawn) < 2:
            return Map([], (0.0, 0.0), len(rows))
        vectors = everything.vectors[drawn].float()
        places, explained = principal_components(vectors, 2)
        points = [
            MapPoint(everything.image_id(row), x, y, label, doubt)
            for row, (x, y), (label, doubt) in zip(
                drawn.tolist(),
                places.tolist(),
                likeliest_labels(everything, drawn, vectors, names, fitted),
                strict=True,
            )
        ]
        return Map(points, (float(explained[0]), float(explained[1])), len(rows))
