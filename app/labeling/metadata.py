"""What clients say of images beside their labels: text by key, to find and to choose images by."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import select, update

from app.problems import Failed, ImageNotFound, InvalidRequest
from app.sql.conflicts import retry_conflicts
from app.sql.database import Database
from app.sql.lookups import find_project, portions
from app.sql.tables import Image
from handful.contract.metadata import Metadata

_metadata: TypeAdapter[dict[str, str]] = TypeAdapter(Metadata)


def parse(pairs: Sequence[str]) -> dict[str, str]:
    """Metadata from `key=value`, as it stands in the query of a URL.

    Raises:
        InvalidRequest: a pair is not of that form, or not allowed.
    """
    metadata: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InvalidRequest(f"metadata {pair[:80]!r} has no '=': write metadata=key=value")
        metadata[key] = value
    try:
        return _metadata.validate_python(metadata)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidRequest(f"metadata {str(first['input'])[:80]!r}: {first['msg']}") from error


@retry_conflicts
def replace_metadata(
    db: Database, project_key: str, metadata: Sequence[tuple[UUID, Mapping[str, str]]]
) -> list[Failed]:
    """Replace the metadata of images in one transaction; an unknown image fails alone."""
    with db.writing() as session:
        project = find_project(session, project_key, lock=True)
        present = set[UUID]()
        for portion in portions([image for image, _ in metadata]):
            query = select(Image.id).where(Image.project_id == project.id, Image.id.in_(portion))
            present.update(session.scalars(query))
        rows = [{"id": image, "metadata_": new} for image, new in metadata if image in present]
        if rows:
            session.execute(update(Image), rows)
        name = project.name
    return [
        Failed(n, None, ImageNotFound(f"project {name!r} has no image {image}"))
        for n, (image, _) in enumerate(metadata)
        if image not in present
    ]
