"""The service as methods: each sends a call and waits for the answer, or has it awaited."""

import asyncio
import functools
import inspect
import time
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from pydantic import ValidationError

from handful import calls
from handful.calls import Call, Existing, File, Metadata, Plugin, plugin, project_path
from handful.contract.common import FailedRead, Page, StoredRead
from handful.contract.jobs import FINAL, EventRead, JobRead
from handful.retries import (
    Attempts,
    RequestRefused,
    ServiceUnreachable,
    nobody_answers,
    not_handful,
    refusal,
)

LOOPBACK = {"localhost", "127.0.0.1", "::1"}
FILES_PER_REQUEST = 64
POLL_S = 0.5  # between two looks for new events
TIMEOUT = httpx.Timeout(600, connect=10)
Answer = TypeVar("Answer")
Parameters = ParamSpec("Parameters")
Progress = Callable[[int, int], None]  # images that are done, and all
Listener = Callable[[EventRead], None]


class JobUnsuccessful(RuntimeError):
    """A job that was waited for did not succeed."""

    def __init__(self, job: JobRead) -> None:
        super().__init__(f"job {job.id} {job.state}" + (f": {job.error}" if job.error else ""))
        self.job = job


class AddedImages:
    """What became of files that were sent in several requests."""

    def __init__(self) -> None:
        self.images: list[StoredRead] = []
        self.failed: list[FailedRead] = []

    def note(self, start: int, images: Iterable[StoredRead], failed: Iterable[FailedRead]) -> None:
        """Take in the answer to one request, whose files begin at `start` of all."""
        self.images += [i.model_copy(update={"position": i.position + start}) for i in images]
        self.failed += [f.model_copy(update={"position": f.position + start}) for f in failed]


class _Method(Generic[Parameters, Answer]):
    """A method that sends a call: it waits for the answer or not, as its client does."""

    def __init__(self, build: Callable[Parameters, Call[Answer]]) -> None:
        def method(client: Any, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Any:
            return client.send(build(*args, **kwargs))

        wrapped: Any = functools.update_wrapper(method, build)
        wrapped.__signature__ = _signature(build)
        self._method = wrapped
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, client: "Handful", owner: type) -> Callable[Parameters, Answer]: ...
    @overload
    def __get__(
        self, client: "AsyncHandful", owner: type
    ) -> Callable[Parameters, Awaitable[Answer]]: ...
    @overload
    def __get__(
        self, client: None, owner: type
    ) -> Callable[Concatenate["Handful", Parameters], Answer]: ...

    def __get__(self, client: Any, owner: type) -> Any:
        return self._method.__get__(client, owner)


def _signature(build: Callable[..., Any]) -> inspect.Signature:
    """That of a method: with the client first, and what the answer to the call is."""
    signature = inspect.signature(build)
    client = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    answer = typing.get_args(signature.return_annotation)
    return signature.replace(
        parameters=[client, *signature.parameters.values()],
        return_annotation=answer[0] if answer else signature.return_annotation,
    )


class _Methods:
    """The calls that both clients have."""

    create_project = _Method(calls.create_project)
    projects = _Method(calls.projects)
    project = _Method(calls.project)
    edit_project = _Method(calls.edit_project)
    delete_project = _Method(calls.delete_project)
    create_label = _Method(calls.create_label)
    labels = _Method(calls.labels)
    delete_label = _Method(calls.delete_label)
    add_support = _Method(calls.add_support)
    add_to_pool = _Method(calls.add_to_pool)
    classify = _Method(calls.classify)
    images = _Method(calls.images)
    image = _Method(calls.image)
    image_content = _Method(calls.image_content)
    delete_image = _Method(calls.delete_image)
    similar = _Method(calls.similar)
    set_label = _Method(calls.set_label)
    remove_label = _Method(calls.remove_label)
    undo_label = _Method(calls.undo_label)
    annotations = _Method(calls.annotations)
    annotate = _Method(calls.annotate)
    rank = _Method(calls.rank)
    next_images = _Method(calls.next_images)
    skip = _Method(calls.skip)
    report = _Method(calls.report)
    start_job = _Method(calls.start_job)
    jobs = _Method(calls.jobs)
    job = _Method(calls.job)
    job_events = _Method(calls.job_events)
    cancel_job = _Method(calls.cancel_job)
    retry_job = _Method(calls.retry_job)
    create_webhook = _Method(calls.create_webhook)
    webhooks = _Method(calls.webhooks)
    delete_webhook = _Method(calls.delete_webhook)
    test_webhook = _Method(calls.test_webhook)
    deliveries = _Method(calls.deliveries)
    versions = _Method(calls.versions)
    promote = _Method(calls.promote)
    weights = _Method(calls.weights)
    upload_version = _Method(calls.upload_version)
    import_file = _Method(calls.import_file)


class Handful(_Methods):
    """A service reached over HTTP. Threads may share it.

    A request that finds the service busy or restarting is repeated until `patience_s` is over;
    every POST carries an `Idempotency-Key`, so a repetition changes nothing twice.

    Raises:
        ServiceUnreachable: by any method, when nobody answers in time.
        RequestRefused: by any method, when the service answers with a problem.
    """

    def __init__(self, url: str, api_key: str = "", *, patience_s: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self._patience_s = patience_s
        self._http = httpx.Client(**_settings(self.url, api_key))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def send(self, call: Call[Answer]) -> Answer:
        """What any method does: send a call, and read the answer."""
        return _read(call, self._answer(call.method, call.path, **call.arguments()))

    def add_images(
        self,
        project: str,
        files: Sequence[File],
        *,
        label: str | None = None,
        existing: Existing = "relabel",
        metadata: Metadata | None = None,
        progress: Progress = lambda done, of: None,
    ) -> AddedImages:
        """Send any number of images: support of `label`, or without one to the pool."""
        added = AddedImages()
        for start, call in _uploads(project, files, label, existing, metadata):
            answer = self.send(call)
            added.note(start, answer.images, answer.failed)
            progress(min(start + FILES_PER_REQUEST, len(files)), len(files))
        return added

    def all(
        self, method: Callable[..., Page[Answer]], *args: Any, **named: Any
    ) -> Iterator[Answer]:
        """All items of a list, such as `handful.all(handful.images, "birds")`."""
        cursor: str | None = None
        while True:
            page = method(*args, **{"limit": 1000, **named}, cursor=cursor)
            yield from page.items
            if (cursor := page.next_cursor) is None:
                return

    def wait(self, project: str, job: UUID, told: Listener = lambda event: None) -> JobRead:
        """Follow a job until it has succeeded.

        Args:
            told: hears of each event once.

        Raises:
            JobEnded: it failed or was cancelled.
        """
        last = 0
        while True:
            found = self.job_events(project, job, after=last, limit=1000)
            for event in found.items:
                told(event)
                last = event.number
            if not found.items and found.state in FINAL:
                return _succeeded(self.job(project, job))
            if not found.items:
                time.sleep(POLL_S)

    def export(self, project: str, format: Plugin = "folders", **options: Any) -> Iterator[bytes]:
        """A project as a file of a format, in parts as they come.

        Args:
            options: of `POST export`: `state`, `splits`, `predictions`.

        Raises:
            ServiceUnreachable: also when the answer breaks off.
        """
        body = {"format": plugin(format), **options}
        return self.download(project_path(project, "export"), body)

    def get(self, path: str, **params: Any) -> Any:
        """The JSON answer to a GET."""
        return _json(self._answer("GET", path, params=params))

    def post(self, path: str, body: Any) -> Any:
        """The JSON answer to a POST of JSON."""
        return _json(self._answer("POST", path, json=body))

    def patch(self, path: str, body: Any) -> Any:
        """The JSON answer to a PATCH of JSON."""
        return _json(self._answer("PATCH", path, json=body))

    def download(self, path: str, body: Any) -> Iterator[bytes]:
        """The answer to a POST of JSON in parts, as they come.

        Raises:
            ServiceUnreachable: also when the answer breaks off.
        """
        try:
            with self._http.stream("POST", path, json=body) as answer:
                if answer.is_error:
                    answer.read()
                    raise refusal(answer)
                yield from answer.iter_bytes()
        except httpx.ConnectError as error:
            raise nobody_answers(self.url) from error
        except httpx.HTTPError as error:
            raise ServiceUnreachable(f"the connection to {self.url} failed: {error!r}") from error

    def get_or_create_project(self, name: str) -> Any:
        """The project of that name, made if it is new."""
        try:
            return self.post("/v1/projects", {"name": name})
        except RequestRefused as problem:
            if problem.status != httpx.codes.CONFLICT:
                raise
            return self.get(project_path(name))

    def _answer(self, method: str, path: str, **content: Any) -> httpx.Response:
        attempts = Attempts(self.url, method, self._patience_s)
        headers = attempts.headers | content.pop("headers", {})
        while True:
            outcome: httpx.Response | httpx.HTTPError
            try:
                outcome = self._http.request(method, path, headers=headers, **content)
            except httpx.HTTPError as error:
                outcome = error
            pause_s = attempts.pause_after(outcome)
            if pause_s is None and isinstance(outcome, httpx.Response):
                return outcome
            time.sleep(pause_s or 0.0)


class AsyncHandful(_Methods):
    """The same for programs of `async` functions: each method is awaited."""

    def __init__(self, url: str, api_key: str = "", *, patience_s: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self._patience_s = patience_s
        self._http = httpx.AsyncClient(**_settings(self.url, api_key))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def send(self, call: Call[Answer]) -> Answer:
        """What any method does: send a call, and read the answer."""
        content = await asyncio.to_thread(call.arguments)  # which reads files
        return _read(call, await self._answer(call.method, call.path, **content))

    async def add_images(
        self,
        project: str,
        files: Sequence[File],
        *,
        label: str | None = None,
        existing: Existing = "relabel",
        metadata: Metadata | None = None,
        progress: Progress = lambda done, of: None,
    ) -> AddedImages:
        """Send any number of images: support of `label`, or without one to the pool."""
        added = AddedImages()
        for start, call in _uploads(project, files, label, existing, metadata):
            answer = await self.send(call)
            added.note(start, answer.images, answer.failed)
            progress(min(start + FILES_PER_REQUEST, len(files)), len(files))
        return added

    async def all(
        self, method: Callable[..., Awaitable[Page[Answer]]], *args: Any, **named: Any
    ) -> AsyncIterator[Answer]:
        """All items of a list, such as `handful.all(handful.images, "birds")`."""
        cursor: str | None = None
        while True:
            page = await method(*args, **{"limit": 1000, **named}, cursor=cursor)
            for item in page.items:
                yield item
            if (cursor := page.next_cursor) is None:
                return

    async def wait(self, project: str, job: UUID, told: Listener = lambda event: None) -> JobRead:
        """Follow a job until it has succeeded.

        Args:
            told: hears of each event once.

        Raises:
            JobEnded: it failed or was cancelled.
        """
        last = 0
        while True:
            found = await self.job_events(project, job, after=last, limit=1000)
            for event in found.items:
                told(event)
                last = event.number
            if not found.items and found.state in FINAL:
                return _succeeded(await self.job(project, job))
            if not found.items:
                await asyncio.sleep(POLL_S)

    async def export(
        self, project: str, format: Plugin = "folders", **options: Any
    ) -> AsyncIterator[bytes]:
        """A project as a file of a format, in parts as they come.

        Args:
            options: of `POST export`: `state`, `splits`, `predictions`.

        Raises:
            ServiceUnreachable: also when the answer breaks off.
        """
        path, body = project_path(project, "export"), {"format": plugin(format), **options}
        try:
            async with self._http.stream("POST", path, json=body) as answer:
                if answer.is_error:
                    await answer.aread()
                    raise refusal(answer)
                async for part in answer.aiter_bytes():
                    yield part
        except httpx.ConnectError as error:
            raise nobody_answers(self.url) from error
        except httpx.HTTPError as error:
            raise ServiceUnreachable(f"the connection to {self.url} failed: {error!r}") from error

    async def _answer(self, method: str, path: str, **content: Any) -> httpx.Response:
        attempts = Attempts(self.url, method, self._patience_s)
        headers = attempts.headers | content.pop("headers", {})
        while True:
            outcome: httpx.Response | httpx.HTTPError
            try:
                outcome = await self._http.request(method, path, headers=headers, **content)
            except httpx.HTTPError as error:
                outcome = error
            pause_s = attempts.pause_after(outcome)
            if pause_s is None and isinstance(outcome, httpx.Response):
                return outcome
            await asyncio.sleep(pause_s or 0.0)


def _settings(url: str, api_key: str) -> dict[str, Any]:
    return {
        "base_url": url,
        "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
        "timeout": TIMEOUT,
        "trust_env": urlsplit(url).hostname not in LOOPBACK,  # a proxy cannot reach our loopback
    }


def _uploads(
    project: str,
    files: Sequence[File],
    label: str | None,
    existing: Existing,
    metadata: Metadata | None,
) -> Iterator[tuple[int, Call[Any]]]:
    """Calls of some files each, and where these begin."""
    for start in range(0, len(files), FILES_PER_REQUEST):
        some = files[start : start + FILES_PER_REQUEST]
        yield (
            start,
            calls.add_to_pool(project, some, metadata=metadata)
            if label is None
            else calls.add_support(project, label, some, existing=existing, metadata=metadata),
        )


def _succeeded(job: JobRead) -> JobRead:
    if job.state != "succeeded":
        raise JobUnsuccessful(job)
    return job


def _read(call: Call[Answer], answer: httpx.Response) -> Answer:
    try:
        return call.read(answer)
    except ValidationError as error:
        raise not_handful(answer) from error


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise not_handful(answer) from error
