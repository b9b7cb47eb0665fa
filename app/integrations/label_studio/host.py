"""The Label Studio that is set up, as a place where images are."""

import base64
import binascii
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx

from app.problems import AddressRefused, AddressUnreachable, InvalidRequest
from app.storage.remote import PATIENCE, fetch, outages, read

ACCESS_S = 240.0  # for which an access token is used; it is valid for five minutes
CALL = httpx.Timeout(120.0, connect=5.0)  # predictions of many tasks take their time
PAGE = 500  # items
CLOUD = ("s3:", "gs:", "azure-blob:")  # Label Studio signs addresses there


@dataclass
class Host:
    """Label Studio's address and credential, from the settings.

    The credential goes to this address only. All other addresses are those of strangers.
    """

    url: str  # "": none is set
    token: str  # a personal access token, or a legacy one
    max_bytes: int
    _access: tuple[float, str] = (0.0, "")  # until when, and the token
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def offer(self, token: str) -> None:
        """Use this credential unless the settings have one."""
        self.token = self.token or token

    def image(self, task: int, address: str) -> bytes:
        """The image file of a task.

        Raises:
            Problem: it cannot be read; the detail says why.
        """
        if address.startswith("data:"):
            return _from_data(address)
        if address.startswith(CLOUD):
            uri = base64.urlsafe_b64encode(address.encode()).decode()
            return self._read(f"/tasks/{task}/presign/?{urlencode({'fileuri': uri})}")
        if address.startswith("/data/upload/"):
            where = urlencode({"filepath": address.removeprefix("/data/")})
            try:
                return self._read(f"/storage-data/uploaded/?{where}")
            except AddressUnreachable:
                return self._read(address)
        if address.startswith("/"):
            return self._read(address)
        if self.url and _origin(address) == _origin(self.url):
            return self._read(address)
        return fetch(address, self.max_bytes)

    def call(self, method: str, path: str, **content: Any) -> Any:
        """The JSON answer of Label Studio's own API; None where it has no content.

        Raises:
            AddressRefused: no address is set.
            AddressUnreachable: it does not answer, or with an error; the detail has its words.
        """
        url = self._below(path)
        with httpx.Client(timeout=CALL) as client, outages(url):
            headers = self._credential(client)
            answer = client.request(method, url, headers=headers, **content)
        if not answer.is_success:
            raise AddressUnreachable(
                f"Label Studio answered {method} {path} with status {answer.status_code}: "
                f"{answer.text[:300]}"
            )
        return answer.json() if answer.content else None

    def pages(self, path: str, **params: Any) -> Iterator[Any]:
        """The items of a list, in parts as they are asked for."""
        number, count, total = 1, 0, 1
        while count < total:
            query = {**params, "page": number, "page_size": PAGE}
            answer = self.call("GET", path, params=query)
            # Tasks come with their number in all, projects with the address of the next page.
            items = answer.get("tasks") or answer.get("results") or []
            yield from items
            number, count = number + 1, count + len(items)
            total = answer.get("total", answer.get("count", 0)) if items else 0

    def _read(self, path: str) -> bytes:
        url = path if _is_absolute(path) else self._below(path)
        with httpx.Client(timeout=PATIENCE) as client, outages(url):
            headers = self._credential(client)
        answer = read(url, self.max_bytes, headers)
        if isinstance(answer, bytes):
            return answer
        # An address in the cloud, which needs no token.
        return fetch(answer, self.max_bytes)

    def _below(self, path: str) -> str:
        if not self.url:
            raise AddressRefused(
                f"{path[:80]!r} is in Label Studio: set HANDFUL_LABEL_STUDIO_URL, "
                "and HANDFUL_LABEL_STUDIO_TOKEN to a personal access token of it"
            )
        return f"{self.url.rstrip('/')}/{path.lstrip('/')}"

    def _credential(self, client: httpx.Client) -> dict[str, str]:
        """The header of a legacy token, or of an access token that a personal one is good for."""
        if not self.token:
            return {}
        if self.token.count(".") != 2:  # a JSON Web Token has three parts
            return {"Authorization": f"Token {self.token}"}
        with self._lock:
            until, access = self._access
            if time.monotonic() > until:
                url = self._below("/api/token/refresh/")
                answer = client.post(url, json={"refresh": self.token})
                if not answer.is_success:
                    raise AddressUnreachable(
                        "Label Studio refuses HANDFUL_LABEL_STUDIO_TOKEN "
                        f"(status {answer.status_code}): make a new personal access token there"
                    )
                access = str(answer.json()["access"])
                self._access = time.monotonic() + ACCESS_S, access
        return {"Authorization": f"Bearer {access}"}


def _from_data(address: str) -> bytes:
    head, _, body = address.partition(",")
    if not head.endswith(";base64"):
        raise InvalidRequest(f"{address[:40]!r} is not in base64")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise InvalidRequest(f"{address[:40]!r} is no image: {error}") from error


def _is_absolute(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def _origin(address: str) -> tuple[str, str]:
    parts = urlsplit(address)
    return parts.scheme.lower(), parts.netloc.lower()
