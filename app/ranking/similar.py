"""Use case: the images that look most alike, by exact search."""

from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import torch
from torch import Tensor

from app.problems import ImageNotFound
from app.ranking.filters import row_of
from app.sql.database import Database
from app.sql.lookups import find_project
from app.vectors.matrices import GONE, Snapshot, Vectors

ROWS_PER_BLOCK = 4096


class Similar(NamedTuple):
    """An image that looks alike."""

    image_id: UUID
    label: str | None
    cosine: float


@dataclass(frozen=True)
class SimilarImages:
    """Looks for images that look alike."""

    db: Database
    vectors: Vectors

    def find(self, project_key: str, image_id: UUID, limit: int) -> list[Similar]:
        """The images closest to one, by exact search; itself left out.

        Raises:
            ImageNotFound: the project has no such image.
        """
        with self.db.reading() as session:
            project = find_project(session, project_key)
        revision = self.vectors.at_once(project.id, project.encoder_id)
        snapshot, names = revision.everything, revision.names
        row = row_of(snapshot, image_id)
        if row is None:
            raise ImageNotFound(f"project {project.name!r} has no image {image_id}")
        cosines = _cosines_to(snapshot.vectors, row)
        cosines[torch.from_numpy(snapshot.codes == GONE)] = -torch.inf
        cosines[row] = -torch.inf
        best = cosines.topk(min(limit, len(cosines)))
        return [
            Similar(
                snapshot.image_id(neighbour),
                _label_name(snapshot, neighbour, names),
                max(-1, min(1, cosine)),
            )
            for neighbour, cosine in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            if cosine > -torch.inf
        ]


def _cosines_to(vectors: Tensor, row: int) -> Tensor:
    """Cosines of all rows to one of them, a block at a time."""
    query = vectors[row].float()
    return torch.cat([block.float() @ query for block in torch.split(vectors, ROWS_PER_BLOCK)])


def _label_name(snapshot: Snapshot, row: int, names: dict[UUID, str]) -> str | None:
    """The label of a row; None in the pool."""
    code = int(snapshot.codes[row])
    return names.get(snapshot.label_ids[code]) if code >= 0 else None
