"""HTTP: one module per resource, each with its schemas and routes."""

import base64
import binascii
import difflib
import importlib
import pkgutil
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, TypeVar
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import Field

from app.choosing import Choosing
from app.exports import Exports
from app.imports import Imports
from app.labeling import Failed, Labeling
from app.problems import InvalidRequest, NothingStored, Stale
from app.projects import Projects
from app.promotion import Promotions
from app.queue import Queue
from app.report import Reports
from app.schemas import FailedRead, Page

Row = TypeVar("Row")
Item = TypeVar("Item")


def part(name: str) -> Callable[[Request], Awaitable[Any]]:
    """A dependency: a part of the application, as `app.main` put it together."""

    async def find(request: Request) -> Any:  # a plain function would cost a change of threads
        return getattr(request.app.state, name)

    return find


ExportService = Annotated[Exports, Depends(part("exports"))]
ImportService = Annotated[Imports, Depends(part("imports"))]
JobQueue = Annotated[Queue, Depends(part("queue"))]
PromotionService = Annotated[Promotions, Depends(part("promotions"))]
ChoosingService = Annotated[Choosing, Depends(part("choosing"))]
ReportService = Annotated[Reports, Depends(part("reports"))]
LabelingService = Annotated[Labeling, Depends(part("labeling"))]
ProjectService = Annotated[Projects, Depends(part("projects"))]


Limit = Annotated[int, Query(ge=1, le=1000, description="Items of a page.")]
Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before.")]
ProjectKey = Annotated[str, Field(description="Id or name of the project.")]
LabelKey = Annotated[str, Field(description="Id or name of the label.")]
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


def page(
    rows: Sequence[Row], limit: int, key: Callable[[Row], UUID], show: Callable[[Row], Item]
) -> Page[Item]:
    """A page of at most `limit` rows; one row more than that tells whether there is a next."""
    kept = rows[:limit]
    more = len(rows) > limit
    cursor = base64.urlsafe_b64encode(key(kept[-1]).bytes).rstrip(b"=").decode() if more else None
    return Page(items=[show(row) for row in kept], next_cursor=cursor)


async def _edition(
    if_match: Annotated[
        str | None, Header(description="Only act on this state: the `ETag` of an earlier answer.")
    ] = None,
) -> int | None:
    if if_match is None or if_match.strip() == "*":
        return None
    match = re.fullmatch(r'\s*"(\d{1,18})"\s*', if_match)
    if match is None:
        raise Stale(f"If-Match {if_match[:40]!r} is not an ETag that an answer carried")
    return int(match[1])


IfMatch = Annotated[int | None, Depends(_edition)]


def etag(edition: int) -> str:
    """The `ETag` of an edition."""
    return f'"{edition}"'


def refuse_if_all_failed(failed: list[Failed], succeeded: int) -> None:
    """Answer with a problem when not one file of a request could be used.

    Raises:
        Problem: the one file's own, or one that holds them all.
    """
    if succeeded or not failed:
        return
    documents = [FailedRead.of(f).model_dump() for f in failed]
    if len(failed) == 1:
        problem = failed[0].problem
        problem.members = {
            **problem.members,
            "position": failed[0].position,
            "filename": failed[0].filename,
            "failed": documents,
        }
        raise problem
    first = failed[0].problem.detail
    raise NothingStored(
        f"none of {len(failed)} files could be used; the first: {first}", failed=documents
    )


async def refuse_unknown_parameters(request: Request) -> None:
    """Answer 422 to a query parameter that the route does not have.

    Raises:
        InvalidRequest: names it, and the closest that exists.
    """
    dependant = getattr(request.scope.get("route"), "dependant", None)
    if dependant is None:
        return
    known = sorted(_query_names(dependant))
    for name in request.query_params:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = (
                f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}"
            )
            raise InvalidRequest(f"there is no parameter {name[:80]!r}; {hint}")


def _query_names(dependant: Any) -> set[str]:
    own = {field.alias for field in dependant.query_params}
    return own.union(*(_query_names(d) for d in dependant.dependencies))


def routers() -> list[APIRouter]:
    """The `router` of every module in this folder."""
    modules = pkgutil.iter_modules(__path__, f"{__name__}.")
    return [importlib.import_module(module.name).router for module in modules]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How a route's problems look in the OpenAPI document."""
    return {
        status: {
            "description": "Problem",
            "content": {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemRead"}}
            },
        }
        for status in statuses
    }
