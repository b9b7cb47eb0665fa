"""Parameters that several routes take."""

import base64
import binascii
import difflib
import re
from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Header, Query, Request
from pydantic import Field

from app.problems import InvalidRequest, Stale
from handful.contract.common import Text

Limit = Annotated[int, Query(ge=1, le=1000, description="Items of a page.")]
Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before.")]
ProjectKey = Annotated[Text, Field(description="Id or name of the project.")]
LabelKey = Annotated[Text, Field(description="Id or name of the label.")]
Pairs = Annotated[
    Sequence[str],
    Query(alias="metadata", description="`key=value`; repeat it for more."),
]
ImageKey = Annotated[UUID, Field(description="Id of the image.")]


def after(cursor: str | None) -> UUID | None:
    """The id that a cursor points behind.

    Raises:
        InvalidRequest: it is not a cursor of ours.
    """
    if cursor is None:
        return None
    try:
        return UUID(bytes=base64.urlsafe_b64decode(cursor.encode() + b"=="))
    except (ValueError, binascii.Error, UnicodeEncodeError):
        raise InvalidRequest(
            f"cursor {cursor[:40]!r} is not one that a list gave; start without a cursor"
        ) from None


async def read_edition(
    if_match: Annotated[
        str | None, Header(description="Only act on this state: the `ETag` of an earlier answer.")
    ] = None,
) -> int | None:
    """The edition that `If-Match` names; None where any will do."""
    if if_match is None or if_match.strip() == "*":
        return None
    match = re.fullmatch(r'\s*"(\d{1,18})"\s*', if_match)
    if match is None:
        raise Stale(f"If-Match {if_match[:40]!r} is not an ETag that an answer carried")
    return int(match[1])


IfMatch = Annotated[int | None, Depends(read_edition)]


def etag(edition: int) -> str:
    """The `ETag` of an edition."""
    return f'"{edition}"'


async def refuse_unknown_parameters(request: Request) -> None:
    """Answer 422 to a query parameter that the route does not have.

    Raises:
        InvalidRequest: names it, and the closest that exists.
    """
    dependant = getattr(request.scope.get("route"), "dependant", None)
    if dependant is None:
        return
    names = sorted(_query_names(dependant))
    for name in request.query_params:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = (
                f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names) or 'none'}"
            )
            raise InvalidRequest(f"there is no parameter {name[:80]!r}; {hint}")


def _query_names(dependant: Any) -> set[str]:
    names = {field.alias for field in dependant.query_params}
    return names.union(*(_query_names(d) for d in dependant.dependencies))
