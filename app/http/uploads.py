"""Request bodies to image files: multipart, a raw image, or a zip or tar that is read in place.

Nothing of a client's chooses a path: archive members are read one at a time from a spooled
temporary file, and their names only serve to tell the client which one failed.
"""

import asyncio
import errno
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple, cast

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import Depends, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect

from app.http.openapi import FILE
from app.labeling.uploads import Upload
from app.problems import (
    ArchiveMemberRefused,
    ArchiveRefused,
    FileTooLarge,
    InvalidRequest,
    NoFiles,
    Problem,
    StorageFull,
    TooManyFiles,
    UnsupportedMediaType,
)
from app.settings import UploadLimits
from app.storage.archives import Members, printable_name, too_large
from app.storage.tars import is_tar, read_tar

SPOOL_BYTES = 1 << 20  # a body larger than this waits on disk
ARCHIVES = {
    "application/zip",
    "application/x-zip-compressed",
    "application/x-tar",
    "application/gzip",
    "application/x-gzip",
}
FIELD = "files"
ACCEPTED = (
    f"send multipart/form-data with one or many parts named {FIELD!r}, a raw image "
    "(Content-Type: image/jpeg, image/png ...), or one zip or tar archive"
)
# What the OpenAPI document says of such a body.
OPENAPI_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One or many image files, a raw image, or one zip or tar archive.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {
                        FIELD: {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "format": "binary"},
                        }
                    },
                }
            },
            "image/*": FILE,
            "application/zip": FILE,
            "application/x-tar": FILE,
            "application/gzip": FILE,
        },
    }
}
OPENAPI_FILE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One file.",
        "content": {
            "application/octet-stream": FILE,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}


class Intake(NamedTuple):
    """How much requests may bring, and how many of them are worked on at once."""

    limits: UploadLimits
    turns: CapacityLimiter


def intake_of(request: Request) -> Intake:
    """That of the application that a request came to."""
    return cast(Intake, request.app.state.intake)


def media_type_of(request: Request) -> str:
    """That of the body, without parameters; empty where the request says nothing."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_raw(media_type: str) -> bool:
    """Whether a body of that type is one image."""
    return media_type.startswith("image/") or media_type == "application/octet-stream"


async def read_uploads(request: Request) -> AsyncIterator[Iterator[Upload]]:
    """The files of a request, read lazily; their temporary files go when the answer is ready."""
    limits = intake_of(request).limits
    kind = media_type_of(request)
    with ExitStack() as stack, _disk_errors():
        if kind == "multipart/form-data":
            files = await _form_files(request, limits, stack)
            yield _read_form(files, limits)
        elif kind in ARCHIVES:
            body = await _spool(request, None, stack)
            yield _expand(body, None, limits)
        elif is_raw(kind):
            body = await _spool(request, limits.file_bytes, stack)
            if not body.read(1):
                raise NoFiles(f"the body is empty: {ACCEPTED}")
            yield iter([_read(body, None, limits)])
        else:
            came = f"came as {kind!r}" if kind else "came without a Content-Type"
            raise UnsupportedMediaType(f"the body {came}: {ACCEPTED}")


UploadedFiles = Annotated[Iterator[Upload], Depends(read_uploads)]


async def watch_client(request: Request, _: UploadedFiles) -> AsyncIterator[Callable[[], bool]]:
    """Whether the client has hung up since it sent the body."""
    disconnected = threading.Event()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        disconnected.set()

    watching = asyncio.create_task(watch())
    try:
        yield disconnected.is_set
    finally:
        watching.cancel()


ClientDisconnected = Annotated[Callable[[], bool], Depends(watch_client)]


async def limit_concurrency(request: Request, _: UploadedFiles) -> AsyncIterator[None]:
    """Wait, the body read, while as many images as the network can use are on their way to it.

    More threads than that only take the interpreter from the one that reads requests.
    """
    async with intake_of(request).turns:
        yield


async def read_file(request: Request) -> AsyncIterator[IO[bytes]]:
    """The one file of a request, whatever it is; it goes when the answer is ready."""
    limits = intake_of(request).limits
    kind = media_type_of(request)
    with ExitStack() as stack, _disk_errors():
        if kind == "multipart/form-data":
            files = await _form_files(request, limits, stack)
            if len(files) > 1:
                raise InvalidRequest(f"the form has {len(files)} files: send one")
            file: IO[bytes] = files[0].file
        else:
            file = await _spool(request, None, stack)
        if not file.read(1):
            raise NoFiles("the body is empty: send the file itself, or a form with a part 'files'")
        file.seek(0)
        yield file


OneFile = Annotated[IO[bytes], Depends(read_file)]


async def _form_files(request: Request, limits: UploadLimits, stack: ExitStack) -> list[UploadFile]:
    try:
        form = await request.form(max_files=limits.files, max_fields=limits.files)
    except Problem:
        raise
    except MultiPartException as error:
        raise _multipart_problem(error.message, limits) from error
    except Exception as error:
        # Starlette turns MultiPartException into its own HTTPException inside an application.
        detail = getattr(error, "detail", None)
        if isinstance(detail, str):
            raise _multipart_problem(detail, limits) from error
        raise
    parts = form.multi_items()
    for _, part in parts:
        if isinstance(part, UploadFile):
            stack.callback(part.file.close)
    strangers = sorted({name for name, _ in parts if name != FIELD})
    if strangers:
        named = ", ".join(repr(name[:80]) for name in strangers[:5])
        raise InvalidRequest(f"the form has {named}; name every file part {FIELD!r}")
    files = [part for _, part in parts if isinstance(part, UploadFile)]
    if len(files) != len(parts):
        raise InvalidRequest(f"a part named {FIELD!r} is text: send it as a file, with a filename")
    if not files:
        raise NoFiles(f"the form has no file: {ACCEPTED}")
    return files


def _multipart_problem(message: str, limits: UploadLimits) -> Problem:
    if message.startswith("Too many"):
        return TooManyFiles(
            f"one request may bring {limits.files} files; send more requests, or one zip or tar"
        )
    return InvalidRequest(f"the multipart body cannot be read: {message}")


async def read_to_disk(request: Request) -> AsyncIterator[Path]:
    """The body of a request as a file with a name; it goes when the answer is ready."""
    with _disk_errors(), tempfile.NamedTemporaryFile() as body:
        await _write(request, None, body)
        yield Path(body.name)


async def _spool(request: Request, max_bytes: int | None, stack: ExitStack) -> IO[bytes]:
    body = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 - the stack closes it
    stack.callback(body.close)
    await _write(request, max_bytes, cast(IO[bytes], body))
    return body


async def _write(request: Request, max_bytes: int | None, body: IO[bytes]) -> None:
    """Write a body into a file, and go back to its start."""
    pieces, buffered, size = [], 0, 0  # written many at a time: each change of threads costs
    async for chunk in request.stream():
        pieces.append(chunk)
        buffered += len(chunk)
        size += len(chunk)
        if max_bytes is not None and size > max_bytes:
            raise FileTooLarge(f"the image is larger than {max_bytes} bytes: send a smaller one")
        if buffered > SPOOL_BYTES:
            await anyio.to_thread.run_sync(body.writelines, pieces)
            pieces, buffered = [], 0
    if size > SPOOL_BYTES:
        await anyio.to_thread.run_sync(body.writelines, pieces)
    else:
        body.writelines(pieces)
    body.seek(0)


def _read_form(files: list[UploadFile], limits: UploadLimits) -> Iterator[Upload]:
    for file in files:
        name = file.filename or None
        if _is_archive(file.file):
            yield from _expand(file.file, name, limits)
        else:
            yield _read(file.file, name, limits)


def _read(file: IO[bytes], name: str | None, limits: UploadLimits) -> Upload:
    name = printable_name(name)
    file.seek(0)
    content = file.read(limits.file_bytes + 1)
    if len(content) > limits.file_bytes:
        return Upload(name, too_large(limits))
    return Upload(name, content)


def _is_archive(file: IO[bytes]) -> bool:
    file.seek(0)
    start = file.read(512)
    return start[:4] == b"PK\x03\x04" or is_tar(start)


def _expand(archive: IO[bytes], name: str | None, limits: UploadLimits) -> Iterator[Upload]:
    """The members of an archive; a damaged one ends with the reason as its last entry."""
    archive.seek(0)
    is_zip = archive.read(2) == b"PK"
    archive.seek(0)
    try:
        if is_zip:
            yield from _zip_members(archive, limits)
        else:
            for member in read_tar(archive, limits):
                yield Upload(printable_name(member.name), member.content)
    except ArchiveRefused as problem:
        yield Upload(printable_name(name), problem)


def _zip_members(archive: IO[bytes], limits: UploadLimits) -> Iterator[Upload]:
    members = Members(archive, limits)
    for member in members.infos:
        name = printable_name(member.filename)
        try:
            yield Upload(name, members.read(member))
        except (ArchiveMemberRefused, FileTooLarge) as problem:
            yield Upload(name, problem)


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except ClientDisconnect:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageFull(
            "there is no space for the upload: free some, then send it again", retry_after=60
        ) from error
