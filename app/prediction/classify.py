"""Use case: classify query images."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import torch

from app.inference.embedder import Embedder
from app.inference.images import Embedded, Outcome
from app.labeling.uploads import ImageFile, Upload, chunks
from app.prediction.cache import PredictorCache
from app.prediction.predictor import ClassifyOptions, Predictor, QueryPrediction
from app.problems import Failed, Problem
from app.sql.database import Database
from app.sql.lookups import find_version
from app.sql.project_cache import ProjectCache
from models.embeddings.alignment import Alignment
from models.rejection.open_set import Rejection


class Prediction(NamedTuple):
    """What the project makes of one query image."""

    position: int
    filename: str | None
    answer: QueryPrediction


class Classified(NamedTuple):
    """The answer to one classify request."""

    encoder_id: UUID  # that embedded the queries
    predictions: list[Prediction]
    failed: list[Failed]
    rejection: Rejection | None  # from where on an image is unknown, if that was asked for
    bridge: Alignment | None  # to the embeddings of the project's version, if that is another


@dataclass(frozen=True)
class Classification:
    """Classifies queries; nothing is stored."""

    db: Database
    projects: ProjectCache
    embedder: Embedder
    predictors: PredictorCache

    def classify(
        self,
        project_key: str,
        uploads: Iterable[Upload],
        options: ClassifyOptions,
        query_encoder: UUID | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Classified:
        """Probabilities of the labels, cosines to their centroids, and what else is asked for.

        Args:
            query_encoder: the version that embeds the queries, if not that of the project.
            is_cancelled: whether the answer is waited for no more; images are left undone then.

        Raises:
            RequestCancelled: it is waited for no more.
            VersionNotFound: the project cannot use that version.
            NoBridge: its embeddings cannot be mapped to those of the project's version.
            TooFewLabels: fewer than two labels have support images.
            TooFewShots: unknown images are asked for, and the labeled ones are too few to tell.
        """
        project = self.projects.find(project_key)
        version = project.encoder_id
        if query_encoder is not None:
            with self.db.reading() as session:
                version = find_version(session, project, query_encoder).id
        # Say that labels are missing before the work, not after.
        predictor = self.predictors.fitted(project)
        bridge = None if version == project.encoder_id else self.predictors.bridge(project, version)
        rate = options.false_rejection
        rejection = None if rate is None else predictor.rejection(rate)
        predictions: list[Prediction] = []
        failed: list[Failed] = []
        for number, (files, refused) in enumerate(chunks(uploads)):
            contents, later = [f.content for f in files], number > 0
            outcomes = self.embedder.embed(
                version, contents, wait=later, bulk=later, is_cancelled=is_cancelled
            )
            failed += refused + _failures(files, outcomes)
            predictions += self._predict(predictor, bridge, files, outcomes, options)
        failed.sort(key=lambda f: f.position)
        return Classified(version, predictions, failed, rejection, bridge)

    def _predict(
        self,
        predictor: Predictor,
        bridge: Alignment | None,
        files: Sequence[ImageFile],
        outcomes: Sequence[Outcome],
        options: ClassifyOptions,
    ) -> list[Prediction]:
        """What the project makes of the files that could be embedded."""
        embedded = [
            (file, outcome.vector)
            for file, outcome in zip(files, outcomes, strict=True)
            if isinstance(outcome, Embedded)
        ]
        if not embedded:
            return []
        queries = torch.stack([vector for _, vector in embedded]).float()
        if bridge is not None:
            queries = bridge.map(queries)
        with self.embedder.stage("post"):
            answers = predictor.predict(queries, options)
            return [
                Prediction(file.position, file.filename, answer)
                for (file, _), answer in zip(embedded, answers, strict=True)
            ]


def _failures(files: Sequence[ImageFile], outcomes: Sequence[Outcome]) -> list[Failed]:
    """The files that could not be embedded, and why."""
    return [
        Failed(file.position, file.filename, outcome)
        for file, outcome in zip(files, outcomes, strict=True)
        if isinstance(outcome, Problem)
    ]
