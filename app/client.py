"""Calls to a running service, for the command line."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx

BUSY = {429, 503}
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class ServiceUnreachable(RuntimeError):
    """Nobody answers at the address, or only that there is no time."""


class RequestRefused(RuntimeError):
    """The service answered with a problem; the message is its detail."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail") or problem.get("title") or f"status {status}"))
        self.status = status
        self.failed: Sequence[Mapping[str, Any]] = problem.get("failed", ())


class Client:
    """A service reached over HTTP. Threads may share it.

    A request that finds the service busy or restarting is repeated until `patience_s` is over;
    every POST carries an `Idempotency-Key`, so a repetition changes nothing twice.
    """

    def __init__(self, url: str, api_key: str = "", *, patience_s: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self._patience_s = patience_s
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(600, connect=10),
            trust_env=urlsplit(url).hostname not in LOOPBACK,  # a proxy cannot reach our loopback
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def get(self, path: str, **params: Any) -> Any:
        """The JSON answer to a GET."""
        return self._send("GET", path, params=params)

    def post(self, path: str, body: Any) -> Any:
        """The JSON answer to a POST of JSON."""
        return self._send("POST", path, json=body)

    def patch(self, path: str, body: Any) -> Any:
        """The JSON answer to a PATCH of JSON."""
        return self._send("PATCH", path, json=body)

    def upload(self, path: str, files: Sequence[Path], **params: Any) -> Any:
        """The JSON answer to a POST of image files."""
        parts = [("files", (file.name, file.read_bytes())) for file in files]
        return self._send("POST", path, files=parts, params=params)

    def download(self, path: str, body: Any) -> Iterator[bytes]:
        """The answer to a POST of JSON in parts, as they come.

        Raises:
            ServiceUnreachable: also when the answer breaks off.
        """
        try:
            with self._http.stream("POST", path, json=body) as answer:
                if answer.is_error:
                    answer.read()
                    _content(answer)
                yield from answer.iter_bytes()
        except httpx.ConnectError as error:
            raise self._nobody() from error
        except httpx.HTTPError as error:
            raise ServiceUnreachable(f"the connection to {self.url} failed: {error!r}") from error

    def content(self, path: str) -> bytes:
        """A file, whole."""
        return self._answer("GET", path).content

    def ensure_project(self, name: str) -> Any:
        """The project of that name, made if it is new."""
        try:
            return self.post("/v1/projects", {"name": name})
        except RequestRefused as problem:
            if problem.status != httpx.codes.CONFLICT:
                raise
            return self.get(project_path(name))

    def _send(self, method: str, path: str, **content: Any) -> Any:
        return _content(self._answer(method, path, **content))

    def _answer(self, method: str, path: str, **content: Any) -> httpx.Response:
        headers = {"Idempotency-Key": str(uuid4())} if method == "POST" else {}
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                answer = self._http.request(method, path, headers=headers, **content)
            except httpx.ConnectError as error:
                raise self._nobody() from error
            except httpx.HTTPError as error:
                wait_s, reason = 1.0, f"the connection to {self.url} failed: {error!r}"
            else:
                if answer.status_code not in BUSY:
                    if answer.is_error:
                        _content(answer)
                    return answer
                wait_s = float(answer.headers.get("Retry-After", 1))
                reason = f"{self.url} is busy: {answer.text}"
            if time.monotonic() + wait_s > deadline:
                raise ServiceUnreachable(reason)
            time.sleep(wait_s)

    def _nobody(self) -> ServiceUnreachable:
        return ServiceUnreachable(
            f"no service answers at {self.url}: start one with `handful serve`, "
            "or name another with --url"
        )


def project_path(project: str, *below: str) -> str:
    """The path of a project, or of something below it."""
    return "/".join(["/v1/projects", *(quote(part, safe="") for part in (project, *below))])


def _content(answer: httpx.Response) -> Any:
    try:
        content = answer.json()
    except ValueError as error:
        raise ServiceUnreachable(
            f"what answers at {answer.url.host}:{answer.url.port} does not look like Handful"
        ) from error
    if answer.is_error:
        raise RequestRefused(answer.status_code, content)
    return content
