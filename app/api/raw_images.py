"""The short way of a raw image to its answer."""

import inspect
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import anyio.to_thread
from fastapi import Request, Response
from fastapi.params import Depends
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from app.http.limits import JsonRoute
from app.http.uploads import (
    SPOOL_BYTES,
    intake_of,
    is_raw,
    limit_concurrency,
    media_type_of,
    read_uploads,
    watch_client,
)
from app.labeling.uploads import Upload

_watched = asynccontextmanager(watch_client)


class RawImageRoute(JsonRoute):
    """A route which, if it takes uploads, answers a raw image by a way of its own.

    FastAPI finds out anew for every request what an endpoint needs, which takes half a millisecond:
    more than all else that a photo costs beside its decoding. Here that is known from the start.
    Whatever is unusual about a request, or wrong, goes FastAPI's way, which says what it is.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if read_uploads not in map(_dependency, _hints(self.endpoint).values()):
            return handle
        endpoint = _Endpoint(self.endpoint)
        status = self.status_code or 200
        takes_turns = any(d.dependency is limit_concurrency for d in self.dependencies)

        async def handle_raw_image(request: Request) -> Response:
            values = endpoint.values(request) if _is_small_image(request) else None
            if values is None:
                return await handle(request)
            upload = Upload(None, await request.body())
            async with AsyncExitStack() as stack:
                if takes_turns:
                    await stack.enter_async_context(intake_of(request).turns)
                call = await endpoint.call(request, values, upload, stack)
                answer = await anyio.to_thread.run_sync(call)
            return Response(answer, status, media_type="application/json")

        return handle_raw_image


class _Endpoint:
    """A function that answers a request, and what it needs.

    Raises:
        TypeError: it needs what only FastAPI finds.
        PydanticSchemaGenerationError: so it does, and says so by the type of a parameter.
    """

    def __init__(self, function: Callable[..., BaseModel]) -> None:
        self._function = function
        self._parts: dict[str, Callable[[Request], Coroutine[Any, Any, Any]]] = {}
        self._uploads = self._is_cancelled = ""  # the names of these parameters
        fields: dict[str, Any] = {}
        hints = _hints(function)
        for name, parameter in inspect.signature(function).parameters.items():
            needed = _dependency(hints[name])
            if needed is read_uploads:
                self._uploads = name
            elif needed is watch_client:
                self._is_cancelled = name
            elif needed is None:
                is_required = parameter.default is inspect.Parameter.empty
                fields[name] = (hints[name], ... if is_required else parameter.default)
            elif list(inspect.signature(needed).parameters) == ["request"]:
                self._parts[name] = needed
            else:
                raise TypeError(f"{function.__name__} needs {name}, which no short way leads to")
        config = ConfigDict(extra="forbid")
        self._values = create_model(function.__name__, __config__=config, **fields)
        self._lists = {
            field.alias or name
            for name, field in self._values.model_fields.items()
            if get_origin(field.annotation) is Sequence
        }

    def values(self, request: Request) -> dict[str, Any] | None:
        """The parameters of an address; None: FastAPI has to say what is wrong with them."""
        query = request.query_params
        given: dict[str, Any] = {
            name: values if len(values) > 1 or name in self._lists else values[0]
            for name in query
            if (values := query.getlist(name))
        }
        if given.keys() & request.path_params.keys():
            return None
        try:
            return dict(self._values(**given, **request.path_params))
        except ValidationError:
            return None

    async def call(
        self, request: Request, values: dict[str, Any], upload: Upload, stack: AsyncExitStack
    ) -> Callable[[], bytes]:
        """What gives the answer, as JSON, in a thread."""
        values = values | {name: await find(request) for name, find in self._parts.items()}
        uploads = iter([upload])
        if self._is_cancelled:
            watching = _watched(request, uploads)
            values[self._is_cancelled] = await stack.enter_async_context(watching)
        values[self._uploads] = uploads
        return lambda: self._function(**values).model_dump_json().encode()


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(function, include_extras=True)


def _dependency(hint: Any) -> Callable[..., Any] | None:
    """What a parameter comes from; None: from the address."""
    notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((note.dependency for note in notes if isinstance(note, Depends)), None)


def _is_small_image(request: Request) -> bool:
    """Whether a body is an image that is kept in memory."""
    kind, length = media_type_of(request), request.headers.get("content-length", "")
    most = min(SPOOL_BYTES, intake_of(request).limits.file_bytes)
    return is_raw(kind) and length.isdigit() and 0 < int(length) <= most
