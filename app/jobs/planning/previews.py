"""Pictures of what training sees: augmented images, and views of a pretraining."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import torch
from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session
from torch import Generator, Tensor

from app.inference.embedder import Embedder
from app.jobs.planning.policies import Policies, augmentations_of, by_label
from app.labeling.images import StoredImages
from app.problems import ImageNotDecodable, ImageNotFound, InvalidRequest
from app.sql.lookups import find_project
from app.sql.tables import Image
from models.augmentation.contact_sheet import contact_sheet, draw_views
from models.images import Preprocessing
from models.pretraining import PretrainingMethod, Unsuited, views_of

MIXABLE = 7  # images with which the one that is looked at may be mixed
LARGEST_TILE = 224  # pixels, unless asked for more


def augmentation_sheet(
    images: StoredImages,
    embedder: Embedder,
    project_key: str,
    image_id: UUID,
    augmentation: Sequence[Any],
    per_class: Mapping[str, Sequence[Any]],
    *,
    count: int,
    side: int | None,
    seed: int,
) -> bytes:
    """A PNG of an image as the encoder sees it, beside `count` views of it as training draws them.

    Raises:
        ImageNotFound: the project has no such image, or its file is gone.
        ImageNotDecodable: its file cannot be read any more.
        InvalidRequest: `per_class` names labels that the project does not have.
    """
    generator = Generator().manual_seed(seed)
    image = images.read(project_key, image_id).image
    with images.db.reading() as session:
        project = find_project(session, project_key)
        exceptions = by_label(session, project, per_class)
        policies = Policies(
            augmentations_of(augmentation), {i: augmentations_of(p) for i, p in exceptions.items()}
        )
        neighbours = _mixable(session, image, policies, generator)
    preprocessing = embedder.encoder(project.encoder_id).preprocessing
    decoded = [images.decoded(image, preprocessing), *_readable(images, neighbours, preprocessing)]
    pixels = torch.stack(decoded).float() / 255
    tiles = draw_views(pixels, policies.of(image.label_id), count=count, generator=generator)
    return contact_sheet(tiles, side=side or min(LARGEST_TILE, preprocessing.crop))


def _mixable(
    session: Session, image: Image, policies: Policies, generator: Generator
) -> list[Image]:
    """Random images with which training could mix this one: those of an equal policy."""
    among = select(Image).where(
        Image.project_id == image.project_id, Image.id != image.id, _alike(image, policies)
    )
    count = session.scalar(select(func.count()).select_from(among.subquery())) or 0
    places = torch.randperm(count, generator=generator)[:MIXABLE].tolist()
    images = (session.scalar(among.order_by(Image.id).offset(n).limit(1)) for n in places)
    return [mixable for mixable in images if mixable is not None]


def _alike(image: Image, policies: Policies) -> ColumnElement[bool]:
    policy = policies.of(image.label_id)
    alike = [label for label, exception in policies.exceptions.items() if exception == policy]
    if policy != policies.default:
        return Image.label_id.in_(alike)
    return or_(
        Image.label_id.is_(None),
        Image.label_id.in_(alike),
        Image.label_id.not_in(policies.exceptions),
    )


def _readable(
    stored: StoredImages, images: Sequence[Image], preprocessing: Preprocessing
) -> list[Tensor]:
    """Those that can be read, decoded; the picture does not need all of them."""
    decoded = []
    for image in images:
        try:
            decoded.append(stored.decoded(image, preprocessing))
        except (ImageNotFound, ImageNotDecodable):
            continue
    return decoded


def pretraining_sheet(
    images: StoredImages,
    embedder: Embedder,
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
    image = images.read(project_key, image_id).image
    with images.db.reading() as session:
        version = find_project(session, project_key).encoder_id
    encoder = embedder.encoder(version)
    pixels = images.decoded(image, encoder.preprocessing).float().unsqueeze(0) / 255
    try:
        drawings = views_of(method, encoder, pixels, count=count, seed=seed)
    except Unsuited as error:
        raise InvalidRequest(str(error)) from error
    tile = side or min(LARGEST_TILE, encoder.preprocessing.crop)
    rows = [[tile for view in views for tile in _tiles(view)] for views in drawings]
    original = _resized(pixels, tile)
    sheet = [original[0]] + [_resized(part.unsqueeze(0), tile)[0] for row in rows for part in row]
    return contact_sheet(torch.stack(sheet), side=tile)


def _tiles(view: Tensor) -> Sequence[Tensor]:
    """Pictures of a view: itself, or its parts."""
    return list(view.flatten(0, -4))


def _resized(images: Tensor, side: int) -> Tensor:
    return torch.nn.functional.interpolate(images, size=(side, side), mode="nearest")
