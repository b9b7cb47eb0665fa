"""Pretraining before it starts: what methods need and cost, and what they look at."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import torch
from sqlalchemy import func, select
from torch import Tensor

from app.labeling import Labeling
from app.problems import InvalidRequest
from app.projects import find_project
from app.tables import Image
from models.augmentation.contact_sheet import contact_sheet
from models.pretraining import PretrainingMethod, Unsuited, views_of
from models.pretraining.cost import Cost, measure_cost
from models.pretraining.methods import methods
from models.training.recipe import Recipe

LARGEST_TILE = 224  # pixels, unless asked for more


class Suitability(NamedTuple):
    """A method, and how it suits a project."""

    name: str
    method: type[PretrainingMethod]
    images: int  # that the project has
    refused: str | None  # why it cannot work with the project's encoder
    trial: Cost | None


def suitabilities(
    labeling: Labeling, project_key: str, recipe: Recipe, *, measured: Sequence[str]
) -> list[Suitability]:
    """All methods, and how they suit a project.

    Args:
        measured: the methods of which the cost on this machine is measured.
    """
    with labeling.db.reading() as session:
        project = find_project(session, project_key)
        query = select(func.count()).where(Image.project_id == project.id)
        images, version = session.scalars(query).one(), project.encoder_id
    encoder = labeling.embedder.encoder(version)
    found = []
    for name, method in methods.items():
        refused, trial = None, None
        try:
            method().build(encoder, max(images, 2))
            if name in measured:
                trial = measure_cost(method(), encoder, recipe, max(images, recipe.batch_size))
        except Unsuited as error:
            refused = str(error)
        found.append(Suitability(name, method, images, refused, trial))
    return found


def preview(
    labeling: Labeling,
    project_key: str,
    image_id: UUID,
    method: PretrainingMethod,
    *,
    count: int,
    side: int | None,
    seed: int,
) -> bytes:
    """A PNG of an image as the encoder sees it, and of the views that a method makes of it.

    Each drawing is a row of its views; tiles of an image are views too.

    Raises:
        ImageNotFound: the project has no such image, or its file is gone.
        ImageNotDecodable: its file cannot be read any more.
        InvalidRequest: the method cannot work with the project's encoder.
    """
    image = labeling.image(project_key, image_id).image
    with labeling.db.reading() as session:
        version = find_project(session, project_key).encoder_id
    encoder = labeling.embedder.encoder(version)
    pixels = labeling.decoded(image, encoder.preprocessing).float().unsqueeze(0) / 255
    try:
        drawn = views_of(method, encoder, pixels, count=count, seed=seed)
    except Unsuited as error:
        raise InvalidRequest(str(error)) from error
    tile = side or min(LARGEST_TILE, encoder.preprocessing.crop)
    rows = [[tile for view in views for tile in _tiles(view)] for views in drawn]
    original = _resized(pixels, tile)
    sheet = [original[0]] + [_resized(one.unsqueeze(0), tile)[0] for row in rows for one in row]
    return contact_sheet(torch.stack(sheet), side=tile)


def _tiles(view: Tensor) -> Sequence[Tensor]:
    """Pictures of a view: itself, or its parts."""
    return list(view.flatten(0, -4))


def _resized(images: Tensor, side: int) -> Tensor:
    return torch.nn.functional.interpolate(images, size=(side, side), mode="nearest")
