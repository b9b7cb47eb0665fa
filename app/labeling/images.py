"""Use cases of images: list, read, delete."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from uuid import UUID

import torch
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.problems import ImageNotDecodable, ImageNotFound
from app.sql.conflicts import retry_conflicts
from app.sql.database import Database
from app.sql.lookups import find_label, find_project, images_with
from app.sql.tables import Image, Label, Project, Removal
from app.storage.blobs import Blobs
from models.images import Preprocessing, UnreadableImage, decode, thumbnail


class ImageView(NamedTuple):
    """An image and its label's name."""

    image: Image
    label: str | None


def image_views(
    session: Session, project_id: UUID, *where: Any, limit: int | None = None
) -> list[ImageView]:
    """Images of a project that fulfil all conditions, in the order in which they came."""
    rows = session.execute(
        select(Image, Label.name)
        .outerjoin(Label, Label.id == Image.label_id)
        .where(Image.project_id == project_id, *where)
        .order_by(Image.id)
        .limit(limit)
    )
    return [ImageView(row[0], row[1]) for row in rows]


def find_image(session: Session, project: Project, image_id: UUID) -> ImageView:
    """One image of a project.

    Raises:
        ImageNotFound: there is none.
    """
    views = image_views(session, project.id, Image.id == image_id)
    if not views:
        raise ImageNotFound(f"project {project.name!r} has no image {image_id}")
    return views[0]


@dataclass(frozen=True)
class StoredImages:
    """Images of projects, and their files."""

    db: Database
    blobs: Blobs
    max_pixels: int

    def page(
        self,
        project_key: str,
        *,
        state: Literal["support", "pool"] | None,
        label: str | None,
        after: UUID | None,
        limit: int,
        metadata: Mapping[str, str] | None = None,
        filename: str | None = None,
    ) -> list[ImageView]:
        """Images in the order in which they came."""
        with self.db.reading() as session:
            project = find_project(session, project_key)
            conditions: list[Any] = [*images_with(metadata or {}, filename)]
            if state == "support":
                conditions.append(Image.label_id.is_not(None))
            elif state == "pool":
                conditions.append(Image.label_id.is_(None))
            if label is not None:
                conditions.append(Image.label_id == find_label(session, project, label).id)
            if after is not None:
                conditions.append(Image.id > after)
            return image_views(session, project.id, *conditions, limit=limit)

    def read(self, project_key: str, image_id: UUID) -> ImageView:
        """One image."""
        with self.db.reading() as session:
            return find_image(session, find_project(session, project_key), image_id)

    @retry_conflicts
    def delete(self, project_key: str, image_id: UUID) -> None:
        """Remove an image, its embeddings and its history; the file goes with the next sweep."""
        with self.db.writing() as session:
            project = find_project(session, project_key, lock=True)
            image = find_image(session, project, image_id).image
            project.revision += 1
            session.add(
                Removal(image_id=image.id, project_id=project.id, revision=project.revision)
            )
            session.delete(image)

    def content(self, image: Image) -> bytes:
        """The file of an image.

        Raises:
            ImageNotFound: it was deleted and swept since it was looked up.
        """
        try:
            return self.blobs.get(image.sha256)
        except FileNotFoundError as error:
            raise ImageNotFound(f"the file of image {image.id} is gone") from error

    def decoded(self, image: Image, preprocessing: Preprocessing) -> torch.Tensor:
        """An image as an encoder wants it: uint8, (3, S, S).

        Raises:
            ImageNotFound: its file is gone.
            ImageNotDecodable: its file cannot be read any more.
        """
        try:
            return decode(self.content(image), preprocessing, max_pixels=self.max_pixels).pixels
        except UnreadableImage as error:
            raise ImageNotDecodable(str(error)) from error

    def thumbnail(self, image: Image, side: int) -> bytes:
        """The image upright within `side` x `side` pixels, as WebP."""
        return thumbnail(self.content(image), side, max_pixels=self.max_pixels)
