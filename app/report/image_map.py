"""Use case: where images lie, in two dimensions."""

from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import torch
from jaxtyping import Float, Int
from torch import Tensor

from app.prediction.cache import PredictorCache
from app.prediction.predictor import Predictor
from app.problems import TooFewLabels
from app.sql.database import Database
from app.sql.lookups import find_project
from app.vectors.matrices import Snapshot, Vectors
from models.embeddings.pca import principal_components

MOST_POINTS = 3000  # of a map


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
    images: int  # that there are; a random part is drawn of more than `MOST_POINTS`


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
        revision = self.vectors.at_once(project.id, project.encoder_id)
        snapshot, names = revision.everything, revision.names
        try:
            predictor = self.predictors.fitted(project, revision)
        except TooFewLabels:
            predictor = None
        rows = torch.cat([snapshot.rows(labeled=True), snapshot.rows(labeled=False)])
        generator = torch.Generator().manual_seed(seed)
        sample = rows[torch.randperm(len(rows), generator=generator)[:MOST_POINTS]].sort().values
        if len(sample) < 2:
            return Map([], (0.0, 0.0), len(rows))
        vectors = snapshot.vectors[sample].float()
        places, explained = principal_components(vectors, 2)
        points = [
            MapPoint(snapshot.image_id(row), x, y, label, doubt)
            for row, (x, y), (label, doubt) in zip(
                sample.tolist(),
                places.tolist(),
                _likeliest_labels(snapshot, sample, vectors, names, predictor),
                strict=True,
            )
        ]
        return Map(points, (float(explained[0]), float(explained[1])), len(rows))


def _likeliest_labels(
    snapshot: Snapshot,
    rows: Int[Tensor, " K"],
    vectors: Float[Tensor, "K D"],
    names: dict[UUID, str],
    predictor: Predictor | None,
) -> list[tuple[str | None, float | None]]:
    """Of each image its label, or the likeliest one and the doubt about it."""
    labels = [
        names.get(snapshot.label_ids[code]) if code >= 0 else None
        for code in snapshot.codes[rows.numpy()].tolist()
    ]
    if predictor is None:
        return [(label, None) for label in labels]
    confidence, likeliest = predictor.head.probabilities(vectors).max(dim=1)
    return [
        (label, None) if label is not None else (predictor.names[c], 1 - p)
        for label, c, p in zip(labels, likeliest.tolist(), confidence.tolist(), strict=True)
    ]
