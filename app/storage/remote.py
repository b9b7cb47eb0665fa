"""To and from addresses that others name: public ones only, and no more than is asked for.

Who names an address could have this service read what only it can reach (server-side request
forgery). So a host is looked up once, all its addresses must be public, and the connection goes to
one that was looked at; the same for each redirect.
"""

import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import anyio
import httpx

from app.problems import AddressRefused, AddressUnreachable, FileTooLarge
from app.storage.special_addresses import is_public

REDIRECTS = 5
PATIENCE = httpx.Timeout(10.0, connect=5.0)  # for the next byte
TOTAL_S = 30.0  # for a file, however steadily it drips
POST_S = 10.0  # for a message, from the connection to the status of the answer
PORTS = {"http": 80, "https": 443}
Answer = TypeVar("Answer")


def fetch(url: str, max_bytes: int) -> bytes:
    """The content of a public http or https address.

    Raises:
        AddressRefused: it is not of that kind, or leads to an address that is not public.
        AddressUnreachable: nobody answers there, or not with a file, or not within `TOTAL_S`.
        FileTooLarge: it is longer than `max_bytes`.
    """

    async def follow(client: httpx.AsyncClient) -> bytes:
        address = url
        for _ in range(REDIRECTS + 1):
            content = await _read(client, _pinned(client, "GET", address), address, max_bytes)
            if isinstance(content, bytes):
                return content
            address = content
        raise AddressUnreachable(f"{_host(address)} redirects more than {REDIRECTS} times")

    return _within(TOTAL_S, url, follow)


def read(url: str, max_bytes: int, headers: dict[str, str]) -> bytes | str:
    """The content of an address that the settings name, or the address to which it redirects.

    Raises:
        AddressUnreachable: as for `fetch`.
        FileTooLarge: it is longer than `max_bytes`.
    """

    async def ask(client: httpx.AsyncClient) -> bytes | str:
        request = client.build_request("GET", url, headers=headers)
        return await _read(client, request, url, max_bytes)

    return _within(TOTAL_S, url, ask, trust_env=True)


def post(url: str, body: bytes, headers: dict[str, str], *, private: bool = False) -> int:
    """Send something to an address; the status of the answer, of which nothing else is read.

    Args:
        private: whether the address need not be public.

    Raises:
        AddressRefused: it is not of http or https, or leads to an address that is not public.
        AddressUnreachable: nobody answers there within `POST_S`.
    """

    async def send(client: httpx.AsyncClient) -> int:
        request = _pinned(client, "POST", url, headers, body, private=private)
        answer = await client.send(request, stream=True)
        await answer.aclose()
        return answer.status_code

    return _within(POST_S, url, send)


def check(url: str, *, private: bool = False) -> None:
    """Look whether something can be sent to an address.

    Raises:
        AddressRefused: as for `post`.
        AddressUnreachable: there is no such host.
    """
    with httpx.Client() as client, outages(url):
        _pinned(client, "POST", url, private=private)


def _within(
    seconds: float,
    url: str,
    exchange: Callable[[httpx.AsyncClient], Awaitable[Answer]],
    *,
    trust_env: bool = False,
) -> Answer:
    """Do a whole exchange or leave it, by a clock that nobody sets.

    The timeouts of httpx are for one byte or the next, which who sends a byte now and then never
    reaches, be it in the middle of a header.
    """

    async def run() -> Answer:
        async with httpx.AsyncClient(timeout=PATIENCE, trust_env=trust_env) as client:
            with anyio.fail_after(seconds):
                return await exchange(client)

    with outages(url):
        try:
            return anyio.run(run)
        except TimeoutError as error:
            raise AddressUnreachable(
                f"{_host(url)} is too slow: {seconds:.0f} s are over"
            ) from error


async def _read(
    client: httpx.AsyncClient, request: httpx.Request, url: str, max_bytes: int
) -> bytes | str:
    """The content of an answer, or where it redirects to."""
    answer = await client.send(request, stream=True)
    try:
        if answer.has_redirect_location:
            return str(httpx.URL(url).join(answer.headers["location"]))
        if not answer.is_success:
            raise AddressUnreachable(f"{_host(url)} answered with status {answer.status_code}")
        body = bytearray()
        async for part in answer.aiter_bytes():
            body += part
            if len(body) > max_bytes:
                raise FileTooLarge(f"the file is larger than {max_bytes} bytes")
        return bytes(body)
    finally:
        await answer.aclose()


@contextmanager
def outages(url: str) -> Iterator[None]:
    """Tell what goes wrong between here and there as a problem."""
    try:
        yield
    except httpx.InvalidURL as error:
        raise AddressRefused(f"{url[:80]!r} is not a URL: {error}") from error
    except httpx.HTTPError as error:
        raise AddressUnreachable(f"{_host(url)} did not answer: {type(error).__name__}") from error


def _pinned(
    client: httpx.Client | httpx.AsyncClient,
    method: str,
    url: str,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    *,
    private: bool = False,
) -> httpx.Request:
    """A request to the address that the host has now, and not to one that it has a moment later."""
    parts = httpx.URL(url)
    if parts.scheme not in PORTS or not parts.host:
        raise AddressRefused(f"{url[:80]!r} is not an http or https address")
    if parts.userinfo:
        raise AddressRefused("an address may not hold a user and a password")
    address = _address(parts.host, parts.port or PORTS[parts.scheme], private)
    return client.build_request(
        method,
        parts.copy_with(host=address),
        content=body,
        headers={"Host": parts.netloc.decode("ascii")} | (headers or {}),
        extensions={"sni_hostname": parts.host},
    )


def _address(host: str, port: int, private: bool) -> str:
    try:
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise AddressUnreachable(f"there is no host {host[:80]!r}") from error
    addresses = [str(row[4][0]) for row in rows]
    hidden = [address for address in addresses if not is_public(address)]
    if hidden and not private:
        raise AddressRefused(f"{host[:80]!r} is at {hidden[0]}, which is no public address")
    return addresses[0]


def _host(url: str) -> str:
    return httpx.URL(url).host or url[:80]
