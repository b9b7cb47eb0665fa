"""The service as methods: each sends a call and waits for the answer, or has it awaited."""

import asyncio
import functools
import inspect
import time
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload
from urllib.parse import urlsplit

import httpx
from pydantic import ValidationError

from handful import calls, steps
from handful.calls import Call, Plugin, plugin, project_path
from handful.contract.common import Page
from handful.retries import (
    Attempts,
    RequestRefused,
    connection_errors,
    not_handful,
    refusal,
)
from handful.steps import ITEMS_PER_PAGE, AddedImages, Attempt, JobUnsuccessful, Step, Steps

__all__ = ["AddedImages", "AsyncHandful", "Handful", "JobUnsuccessful"]

LOOPBACK = {"localhost", "127.0.0.1", "::1"}
TIMEOUT = httpx.Timeout(600, connect=10)
Answer = TypeVar("Answer")
Parameters = ParamSpec("Parameters")


class _Bound(Generic[Parameters, Answer]):
    """A method of both clients: it waits for the answer or not, as its client does."""

    def __init__(self, build: Callable[Parameters, Any], do: Callable[[Any, Any], Any]) -> None:
        def method(client: Any, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Any:
            return do(client, build(*args, **kwargs))

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


class _Method(_Bound[Parameters, Answer]):
    """A method that sends one call."""

    def __init__(self, build: Callable[Parameters, Call[Answer]]) -> None:
        super().__init__(build, lambda client, call: client.send(call))


class _Procedure(_Bound[Parameters, Answer]):
    """A method that takes several steps."""

    def __init__(self, build: Callable[Parameters, Steps[Answer]]) -> None:
        super().__init__(build, lambda client, procedure: client.run(procedure))


def _signature(build: Callable[..., Any]) -> inspect.Signature:
    """That of a method: with the client first, and what the calls come to."""
    signature = inspect.signature(build)
    client = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    return signature.replace(
        parameters=[client, *signature.parameters.values()],
        return_annotation=typing.get_args(signature.return_annotation)[-1],
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
    evaluate = _Method(calls.evaluate)
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
    learned_heads = _Method(calls.learned_heads)
    head_weights = _Method(calls.head_weights)
    promote = _Method(calls.promote)
    weights = _Method(calls.weights)
    upload_version = _Method(calls.upload_version)
    import_file = _Method(calls.import_file)
    add_images = _Procedure(steps.add_images)
    wait = _Procedure(steps.wait)


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

    def run(self, procedure: Steps[Answer]) -> Answer:
        """Take one step after the other; what they come to."""
        outcome: Any = None
        while True:
            try:
                step = procedure.send(outcome)
            except StopIteration as end:
                answer: Answer = end.value
                return answer
            outcome = self._take(step)

    def all(
        self, method: Callable[..., Page[Answer]], *args: Any, **named: Any
    ) -> Iterator[Answer]:
        """All items of a list, such as `handful.all(handful.images, "birds")`."""
        query: dict[str, Any] | None = {"limit": ITEMS_PER_PAGE, **named}
        while query is not None:
            page = method(*args, **query)
            yield from page.items
            query = steps.next_query(query, page)

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
        with connection_errors(self.url), self._http.stream("POST", path, json=body) as answer:
            if answer.is_error:
                answer.read()
                raise refusal(answer)
            yield from answer.iter_bytes()

    def get_or_create_project(self, name: str) -> Any:
        """The project of that name, made if it is new."""
        try:
            return self.post("/v1/projects", {"name": name})
        except RequestRefused as problem:
            if problem.status != httpx.codes.CONFLICT:
                raise
            return self.get(project_path(name))

    def _answer(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        return self.run(
            steps.request(Attempts(self.url, method, self._patience_s), path, arguments)
        )

    def _take(self, step: Step) -> Any:
        match step:
            case Call():
                return self.send(step)
            case Attempt(method, path, arguments):
                try:
                    return self._http.request(method, path, **arguments)
                except httpx.HTTPError as error:
                    return error
            case pause_s:
                return time.sleep(pause_s)


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
        arguments = await asyncio.to_thread(call.arguments)  # which reads files
        attempts = Attempts(self.url, call.method, self._patience_s)
        return _read(call, await self.run(steps.request(attempts, call.path, arguments)))

    async def run(self, procedure: Steps[Answer]) -> Answer:
        """Take one step after the other; what they come to."""
        outcome: Any = None
        while True:
            try:
                step = procedure.send(outcome)
            except StopIteration as end:
                answer: Answer = end.value
                return answer
            outcome = await self._take(step)

    async def all(
        self, method: Callable[..., Awaitable[Page[Answer]]], *args: Any, **named: Any
    ) -> AsyncIterator[Answer]:
        """All items of a list, such as `handful.all(handful.images, "birds")`."""
        query: dict[str, Any] | None = {"limit": ITEMS_PER_PAGE, **named}
        while query is not None:
            page = await method(*args, **query)
            for item in page.items:
                yield item
            query = steps.next_query(query, page)

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
        with connection_errors(self.url):
            async with self._http.stream("POST", path, json=body) as answer:
                if answer.is_error:
                    await answer.aread()
                    raise refusal(answer)
                async for part in answer.aiter_bytes():
                    yield part

    async def _take(self, step: Step) -> Any:
        match step:
            case Call():
                return await self.send(step)
            case Attempt(method, path, arguments):
                try:
                    return await self._http.request(method, path, **arguments)
                except httpx.HTTPError as error:
                    return error
            case pause_s:
                return await asyncio.sleep(pause_s)


def _settings(url: str, api_key: str) -> dict[str, Any]:
    return {
        "base_url": url,
        "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
        "timeout": TIMEOUT,
        "trust_env": urlsplit(url).hostname not in LOOPBACK,  # a proxy cannot reach our loopback
    }


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
