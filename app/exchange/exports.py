"""Use cases of exports: a project to a file that other tools read.

An export looks once at the project, for what is in it and under which labels. Then it reads the
images one at a time; no transaction is open while they are sent.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import numpy as np
import torch
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.exchange.formats import Format
from app.exchange.records import Export, Row, SuggestedLabel, Unreadable
from app.prediction.cache import PredictorCache
from app.prediction.predictor import ClassifyOptions, Predictor
from app.sql.columns import Float16s
from app.sql.database import Database
from app.sql.lookups import find_project, label_names
from app.sql.tables import Annotation, Embedding, Image, Project
from app.storage.blobs import Blobs
from handful.contract.exchange import State
from models.evaluation.splits import assign

ROWS_PER_QUERY = 4096
ROWS_PER_FETCH = 256
SUGGESTIONS = 5  # labels for an image, at most
BLOCK_BYTES = 1 << 16  # what is sent at once, at least
NONE = -1  # label or split of an image that has none


class ExportQuery(NamedTuple):
    """What to export."""

    state: State
    splits: Mapping[str, float] | None  # the share of each
    predictions: bool  # suggest labels for images without one


class Exported(NamedTuple):
    """A file that is being written."""

    filename: str
    media_type: str
    parts: Iterator[bytes]


class _Plan(NamedTuple):
    """The images to export, as they were at one moment: 21 bytes for each."""

    ids: NDArray[np.uint8]  # (N, 16)
    labels: NDArray[np.int32]  # (N,), positions of names, or NONE
    splits: NDArray[np.int8]  # (N,), positions of names, or NONE


@dataclass(frozen=True)
class Exports:
    """Exports of projects."""

    db: Database
    blobs: Blobs
    predictors: PredictorCache

    def export(self, project_key: str, form: Format, query: ExportQuery) -> Exported:
        """Start to write a project; what goes wrong from then on ends the parts with an error.

        Raises:
            TooFewLabels: suggestions are wanted, and fewer than two labels have support images.
            FormatUnavailable: something is not installed.
        """
        with self.db.reading() as session:
            project = find_project(session, project_key)
            labels = label_names(session, project.id)
            plan = _plan(session, project, list(labels), query)
        predictor = self.predictors.fitted(project) if query.predictions else None
        names, splits = list(labels.values()), list(query.splits or ())
        export = Export(
            project.id,
            names,
            lambda: self._rows(project, plan, names, splits, predictor),
            self._content,
        )
        filename = f"{project.name}{form.suffix}"
        return Exported(filename, form.media_type, blocks(form.write(export)))

    def _rows(
        self,
        project: Project,
        plan: _Plan,
        labels: Sequence[str],
        splits: Sequence[str],
        predictor: Predictor | None,
    ) -> Iterator[Row]:
        """The images of a plan that are still there, in the order in which they came."""
        for start in range(0, len(plan.ids), ROWS_PER_FETCH):
            block = slice(start, start + ROWS_PER_FETCH)
            ids = [UUID(bytes=packed.tobytes()) for packed in plan.ids[block]]
            with self.db.reading() as session:
                query = select(Image).where(Image.project_id == project.id, Image.id.in_(ids))
                images = {image.id: image for image in session.scalars(query)}
                annotators = _annotators(session, ids)
                pool = [i for i, n in zip(ids, plan.labels[block], strict=True) if n == NONE]
                vectors = _vectors(session, pool, project.encoder_id) if predictor else {}
            suggestions = _suggestions(predictor, vectors) if predictor else {}
            for image_id, label, split in zip(
                ids, plan.labels[block], plan.splits[block], strict=True
            ):
                if (image := images.get(image_id)) is None:
                    continue  # deleted since the export began
                yield Row(
                    id=image_id,
                    sha256=image.sha256,
                    filename=image.filename,
                    media_type=image.media_type,
                    width=image.width,
                    height=image.height,
                    label=None if label == NONE else labels[label],
                    annotator=None if label == NONE else annotators.get(image_id),
                    split=None if split == NONE else splits[split],
                    suggestions=suggestions.get(image_id, ()),
                )

    def _content(self, row: Row) -> bytes:
        try:
            content = self.blobs.get(row.sha256)
        except OSError as error:
            raise Unreadable(f"its file cannot be read: {type(error).__name__}") from error
        if hashlib.sha256(content).hexdigest() != row.sha256:
            raise Unreadable("its file is damaged")
        return content


def blocks(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer parts."""
    block = bytearray()
    for part in parts:
        block += part
        if len(block) >= BLOCK_BYTES:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


def _plan(session: Session, project: Project, labels: Sequence[UUID], query: ExportQuery) -> _Plan:
    images = select(Image.id, Image.label_id, Image.sha256).where(Image.project_id == project.id)
    if query.state == "support":
        images = images.where(Image.label_id.is_not(None))
    elif query.state == "pool":
        images = images.where(Image.label_id.is_(None))
    position = {label: n for n, label in enumerate(labels)}
    ids, codes, hashes = bytearray(), [], []
    for image, label, sha256 in session.execute(
        images.order_by(Image.id).execution_options(yield_per=ROWS_PER_QUERY)
    ):
        ids += image.bytes
        codes.append(position[label] if label else NONE)
        hashes.append(int(sha256[:15], 16))  # 60 bits, which fit a signed integer
    return _Plan(
        np.frombuffer(bytes(ids), np.uint8).reshape(-1, 16),
        np.array(codes, dtype=np.int32),
        _splits(hashes, codes, query.splits),
    )


def _splits(
    hashes: list[int], codes: list[int], shares: Mapping[str, float] | None
) -> NDArray[np.int8]:
    if not shares:
        return np.full(len(codes), NONE, dtype=np.int8)
    assigned = assign(
        torch.tensor(hashes, dtype=torch.long),
        torch.tensor(codes, dtype=torch.long),
        list(shares.values()),
    )
    return assigned.numpy().astype(np.int8)


def _annotators(session: Session, ids: Sequence[UUID]) -> dict[UUID, str | None]:
    """Who gave each image the label that it has."""
    query = select(Annotation.image_id, Annotation.annotator).where(
        Annotation.image_id.in_(ids), Annotation.source != "undo", Annotation.undone.is_(False)
    )
    return {row[0]: row[1] for row in session.execute(query.order_by(Annotation.id))}


def _vectors(session: Session, ids: Sequence[UUID], encoder_id: UUID) -> dict[UUID, Float16s]:
    query = select(Embedding.image_id, Embedding.vector).where(
        Embedding.image_id.in_(ids), Embedding.encoder_id == encoder_id
    )
    return {row[0]: row[1] for row in session.execute(query)}


def _suggestions(
    predictor: Predictor, vectors: Mapping[UUID, Float16s]
) -> dict[UUID, Sequence[SuggestedLabel]]:
    if not vectors:
        return {}
    answers = predictor.predict(
        torch.from_numpy(np.stack(list(vectors.values()))).float(), ClassifyOptions(SUGGESTIONS, 0)
    )
    return {
        image: [SuggestedLabel(c.label, c.probability) for c in answer.candidates]
        for image, answer in zip(vectors, answers, strict=True)
    }
