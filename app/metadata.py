"""What clients say of images beside their labels: text by key, to find and to choose images by."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError
from sqlalchemy import ColumnElement

from app.problems import InvalidRequest
from app.tables import Image

# Only such keys can be part of a JSON path of any database, and only such text of its JSON.
Key = Annotated[str, StringConstraints(pattern=r"^[\w.:/-]{1,100}$")]
Value = Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]
Metadata = Annotated[
    dict[Key, Value],
    Field(max_length=50, description="Text by key.", examples=[{"camera": "north"}]),
]
Wanted = Annotated[
    dict[Key, Value | Annotated[list[Value], Field(min_length=1, max_length=100)]],
    Field(
        max_length=10,
        description="By key, the text that an image must have, or a list of which it has one.",
        examples=[{"camera": ["north", "south"]}],
    ),
]
FilenamePart = Annotated[
    str, Field(max_length=255, description="A part of the file name, in upper or lower case.")
]

_metadata: TypeAdapter[dict[str, str]] = TypeAdapter(Metadata)


def parse(pairs: Sequence[str]) -> dict[str, str]:
    """Metadata from `key=value`, as it stands in the query of a URL.

    Raises:
        InvalidRequest: a pair is not of that form, or not allowed.
    """
    given: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InvalidRequest(f"metadata {pair[:80]!r} has no '=': write metadata=key=value")
        given[key] = value
    try:
        return _metadata.validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidRequest(f"metadata {str(first['input'])[:80]!r}: {first['msg']}") from error


def matching(
    wanted: Mapping[str, str | Sequence[str]], filename: str | None = None
) -> list[ColumnElement[bool]]:
    """Conditions on images; all must hold.

    Args:
        filename: a part of it, in upper or lower case.
    """
    found = [
        Image.metadata_[key].as_string().in_([values] if isinstance(values, str) else values)
        for key, values in wanted.items()
    ]
    if filename:
        found.append(Image.filename.icontains(filename, autoescape=True))
    return found
