"""Projects to files that other tools read, and back."""

import re
from math import isclose
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import Query, Request
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, Field

from app.api import resource_router
from app.api.answers import refuse_if_all_failed, show_failed
from app.api.parts import ExportService, ImportService
from app.exchange.exports import ExportQuery
from app.exchange.formats import formats
from app.http.openapi import file_responses, problem_responses
from app.http.parameters import ProjectKey
from app.http.uploads import OPENAPI_FILE, OneFile, intake_of
from app.plugin_fields import plugin_field
from handful.contract.common import Schema
from handful.contract.exchange import ImportRead, State

router = resource_router("/v1/projects/{project}", tags=["exchange"])
FORMATS: Any = Literal[tuple(formats)]
SplitName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,49}$")]
Share = Annotated[float, Field(gt=0, le=1)]


def _sum_to_one(shares: dict[str, float] | None) -> dict[str, float] | None:
    if shares == {}:
        raise ValueError("name a split, or leave `splits` out")
    if shares is not None and not isclose(sum(shares.values()), 1, abs_tol=1e-6):
        raise ValueError(f"the shares sum to {sum(shares.values()):g}: make that 1")
    if shares is not None and len({name.lower() for name in shares}) < len(shares):
        raise ValueError("two splits differ only in upper and lower case")
    return shares


class ExportRequest(Schema):
    """What to write, and as what."""

    format: plugin_field(formats) = Field(default={"name": "folders"}, validate_default=True)  # type: ignore[valid-type]
    state: State = Field(default="all", description="With a label, without one, or both.")
    splits: Annotated[
        dict[SplitName, Share] | None,
        Field(
            max_length=20,
            description='Share of each split, such as `{"train": 0.8, "test": 0.2}`. Each '
            "label is divided alike, and the same way every time.",
        ),
        AfterValidator(_sum_to_one),
    ] = None
    predictions: bool = Field(
        default=False, description="Suggest labels for the images that have none."
    )


@router.post(
    "/export",
    response_class=StreamingResponse,
    responses=file_responses("*/*", 404, 409, 422),
)
def export_project(
    project: ProjectKey, body: ExportRequest, exports: ExportService
) -> StreamingResponse:
    """Write a project as one file, sent while images are read.

    An image whose file cannot be read any more is in the file with the reason under `missing`. An
    error on the way ends the answer before it is complete.
    """
    plugin: Any = body.format
    query = ExportQuery(body.state, body.splits, body.predictions)
    file = exports.export(project, plugin.options, query)
    return StreamingResponse(
        file.parts,
        media_type=file.media_type,
        headers={"Content-Disposition": _attachment(file.filename), "Cache-Control": "no-store"},
    )


@router.post(
    "/import",
    responses=problem_responses(404, 413, 415, 422, 429, 503),
    openapi_extra=OPENAPI_FILE,
)
def import_file(
    project: ProjectKey,
    file: OneFile,
    imports: ImportService,
    request: Request,
    format_: Annotated[
        FORMATS | None, Query(alias="format", description="When empty, what the file looks like.")
    ] = None,
    existing: Annotated[
        Literal["relabel", "keep"],
        Query(description="What to do with an image that has another label already."),
    ] = "relabel",
) -> ImportRead:
    """Add the images and labels of a file that was exported here or by another tool.

    Images come in the file, or are looked up in the project by SHA-256, id or file name; URLs are
    not fetched. One that cannot be used fails alone.
    """
    limits = intake_of(request).limits
    imported = imports.import_file(project, file, limits, name=format_, existing=existing)
    refuse_if_all_failed(imported.failed, imported.usable)
    return ImportRead(
        format=imported.format,
        images=imported.images,
        created=imported.created,
        labeled=imported.labeled,
        labels=imported.labels,
        failed=[show_failed(failed) for failed in imported.failed],
    )


def _attachment(filename: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", filename).lstrip(".-") or "export"
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
