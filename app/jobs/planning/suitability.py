"""Methods of pretraining before one is started: what they need and what they cost."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import func, select

from app.inference.embedder import Embedder
from app.sql.database import Database
from app.sql.lookups import find_project
from app.sql.tables import Image
from models.pretraining import PretrainingMethod, Unsuited
from models.pretraining.cost import Cost, measure_cost
from models.pretraining.methods import methods
from models.training.recipe import Recipe


class Suitability(NamedTuple):
    """A method, and how it suits a project."""

    name: str
    method: type[PretrainingMethod]
    images: int  # that the project has
    refused: str | None  # why it cannot work with the project's encoder
    trial: Cost | None


def suitabilities(
    db: Database, embedder: Embedder, project_key: str, recipe: Recipe, *, measured: Sequence[str]
) -> list[Suitability]:
    """All methods, and how they suit a project.

    Args:
        measured: the methods of which the cost on this machine is measured.
    """
    with db.reading() as session:
        project = find_project(session, project_key)
        query = select(func.count()).where(Image.project_id == project.id)
        images, version = session.scalars(query).one(), project.encoder_id
    encoder = embedder.encoder(version)
    results = []
    for name, method in methods.items():
        refused, trial = None, None
        try:
            method().build(encoder, max(images, 2))
            if name in measured:
                trial = measure_cost(method(), encoder, recipe, max(images, recipe.batch_size))
        except Unsuited as error:
            refused = str(error)
        results.append(Suitability(name, method, images, refused, trial))
    return results
