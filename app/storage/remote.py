"""To and from addresses that others name: public ones only, and no more than is asked for.

Who names an address could have this service read what only it can reach (server-side request
forgery). So a host is looked up once, all its addresses must be public, and the connection goes to
one that was looked at; the same for each redirect.
"""

import ipaddress
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import httpx

from app.problems import AddressRefused, AddressUnreachable, FileTooLarge

REDIRECTS = 5
PATIENCE = httpx.Timeout(10.0, connect=5.0)
TOTAL_S = 30.0
PORTS = {"http": 80, "https": 443}
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # the last 32 bits are an IPv4 address


def fetch(url: str, max_bytes: int) -> bytes:
    """The content of a public http or https address.

    Raises:
        AddressRefused: it is not of that kind, or leads to an address that is not public.
        AddressUnreachable: nobody answers there, or not with a file.
        FileTooLarge: it is longer than `max_bytes`.
    """
    deadline = time.monotonic() + TOTAL_S
    with httpx.Client(timeout=PATIENCE, trust_env=False) as client, outages(url):
        for _ in range(REDIRECTS + 1):
            with closing(client.send(_pinned(client, "GET", url), stream=True)) as answer:
                if not answer.has_redirect_location:
                    return content(answer, max_bytes, deadline)
                url = str(httpx.URL(url).join(answer.headers["location"]))
    raise AddressUnreachable(f"{_host(url)} redirects more than {REDIRECTS} times")


def post(url: str, body: bytes, headers: dict[str, str], *, private: bool = False) -> int:
    """Send something to an address; the status of the answer, of which nothing else is read.

    Args:
        private: whether the address need not be public.

    Raises:
        AddressRefused: it is not of http or https, or leads to an address that is not public.
        AddressUnreachable: nobody answers there.
    """
    with httpx.Client(timeout=PATIENCE, trust_env=False) as client, outages(url):
        request = _pinned(client, "POST", url, headers, body, private=private)
        with closing(client.send(request, stream=True)) as answer:
            return answer.status_code


def check(url: str, *, private: bool = False) -> None:
    """Look whether something can be sent to an address.

    Raises:
        AddressRefused: as for `post`.
        AddressUnreachable: there is no such host.
    """
    with httpx.Client() as client, outages(url):
        _pinned(client, "POST", url, private=private)


def content(answer: httpx.Response, max_bytes: int, deadline: float) -> bytes:
    """The body of an answer that is read as it comes, within limits.

    Raises:
        AddressUnreachable: the answer is an error, or takes too long.
        FileTooLarge: it is longer than `max_bytes`.
    """
    if not answer.is_success:
        raise AddressUnreachable(f"{answer.url.host} answered with status {answer.status_code}")
    body = bytearray()
    for part in answer.iter_bytes():
        body += part
        if len(body) > max_bytes:
            raise FileTooLarge(f"the file is larger than {max_bytes} bytes")
        if time.monotonic() > deadline:
            raise AddressUnreachable(f"{answer.url.host} is too slow: {TOTAL_S:.0f} s are over")
    return bytes(body)


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
    client: httpx.Client,
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
    hidden = [address for address in addresses if not _is_public(address)]
    if hidden and not private:
        raise AddressRefused(f"{host[:80]!r} is at {hidden[0]}, which is no public address")
    return addresses[0]


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            address = inner
    return address.is_global and not address.is_multicast


def _host(url: str) -> str:
    return httpx.URL(url).host or url[:80]
