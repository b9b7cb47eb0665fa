"""What several routes answer with: pages, and what became of files."""

import base64
from collections.abc import Callable, Sequence
from typing import TypeVar
from uuid import UUID

from fastapi import Request, Response

from app.labeling.images import ImageView
from app.labeling.uploads import Stored
from app.problems import Failed, NothingStored
from app.sql.tables import Job
from handful.contract.common import FailedRead, Page, ProblemRead, StoredRead
from handful.contract.images import ImageRead
from handful.contract.jobs import JobRead

Row = TypeVar("Row")
Item = TypeVar("Item")


def show_failed(failed: Failed) -> FailedRead:
    """A refused file: which one of the request, and the problem with it."""
    return FailedRead(
        position=failed.position,
        filename=failed.filename,
        problem=ProblemRead(**failed.problem.document()),
    )


def show_stored(stored: Stored) -> StoredRead:
    """An uploaded file: which one of the request, and the image that it is now."""
    return StoredRead(
        position=stored.position,
        filename=stored.filename,
        id=stored.image_id,
        sha256=stored.sha256,
        created=stored.created,
        label=stored.label,
    )


def show_image(view: ImageView) -> ImageRead:
    """An image with the name of its label, without its file."""
    image = view.image
    return ImageRead(
        id=image.id,
        sha256=image.sha256,
        media_type=image.media_type,
        width=image.width,
        height=image.height,
        bytes=image.bytes,
        filename=image.filename,
        label=view.label,
        metadata=image.metadata_,
        created_at=image.created_at,
        labeled_at=image.labeled_at,
    )


def show_job(job: Job) -> JobRead:
    """A job without its claim, checkpoint and fingerprint."""
    return JobRead.model_validate(job, from_attributes=True)


def page(
    rows: Sequence[Row], limit: int, key: Callable[[Row], UUID], show: Callable[[Row], Item]
) -> Page[Item]:
    """A page of at most `limit` rows; one row more than that tells whether there is a next."""
    items, more = rows[:limit], len(rows) > limit
    cursor = base64.urlsafe_b64encode(key(items[-1]).bytes).rstrip(b"=").decode() if more else None
    return Page(items=[show(row) for row in items], next_cursor=cursor)


def send_unchanging(
    request: Request,
    tag: str,
    read: Callable[[], bytes],
    *,
    media_type: str,
    disposition: str = "inline",
) -> Response:
    """A file that stays as it is, read only if the client does not have it yet."""
    headers = {
        "ETag": f'"{tag}"',
        "Cache-Control": "private, max-age=31536000, immutable",
        "Content-Disposition": disposition,
    }
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(read(), media_type=media_type, headers=headers)


def refuse_if_all_failed(failed: list[Failed], succeeded: int) -> None:
    """Answer with a problem when not one file of a request could be used.

    Raises:
        Problem: the one file's own, or one that holds them all.
    """
    if succeeded or not failed:
        return
    documents = [show_failed(f).model_dump() for f in failed]
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
