"""Bodies, headers and connections that mean harm, with and without the key, one after another.

Meanwhile one client asks `/livez`, and another with the key labels an image, on connections of
their own. For each kind: memory of the server at its peak above idle, the longest wait of either,
the statuses of its answers, and without the key the bytes that were taken until it was hung up on,
those in the buffers of the kernel included.
"""

import io
import lzma
import socket
import struct
import tarfile
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from app.cli.benchmark import photos
from bench.harness import PHOTOS, Options, Result, option, run
from bench.processes import Server, in_background, memory, new_server

MIB = 1 << 20
KEY = "the key of a benchmark, and no other"
WITH_KEY = {"Authorization": f"Bearer {KEY}"}
MEMORY_MIB = 300.0
LIVEZ_S = 1.0
LABEL_S = 5.0
TAKEN_MIB = 1.0  # without the key
PIECE = 1 << 15
PIXELS = (7000, 7000)
SESSION, POOL = "POST /v1/session", "POST /v1/projects/birds/pool"
PROJECT = "/v1/projects/birds"


class Outcome(NamedTuple):
    """What came of one kind of abuse."""

    statuses: Counter[str]
    taken: int | None = None  # bytes, where there was no key


class Abuse(NamedTuple):
    """A kind of abuse; its bodies are made before anybody is watched."""

    name: str
    prepare: Callable[[Options], Callable[[Server], Outcome]]


def measure(options: Options) -> Result:
    """Do all that on one server."""
    figures: dict[str, Any] = {}
    with new_server(encoder=options.encoder, api_key=KEY, workers="0") as server:
        assert server.pid
        image = _fill(server, photos(options.images, 8))
        _watched(server, image, lambda _: time.sleep(2))  # what is set up lazily
        idle = memory("VmRSS", server.pid)
        for abuse in ABUSES:
            if options.only in abuse.name:
                figures[abuse.name] = _watched(server, image, abuse.prepare(options), idle)
                print(abuse.name, figures[abuse.name], flush=True)
    worst = {
        what: max((f[what] for f in figures.values() if f[what] is not None), default=0.0)
        for what in ("peak_mib", "livez_s", "label_s", "taken_mib")
    }
    failures = sum(f["failures"] for f in figures.values())
    headline = (
        f"{len(figures)} kinds of abuse: at most {worst['peak_mib']:.0f} MiB above idle "
        f"({MEMORY_MIB:.0f} allowed), /livez within {worst['livez_s']:.2f} s ({LIVEZ_S:g}), labels "
        f"within {worst['label_s']:.2f} s ({LABEL_S:g}), {worst['taken_mib']:.2f} MiB taken "
        f"without the key ({TAKEN_MIB:g}), {failures} failures"
    )
    goal_met = (
        worst["peak_mib"] <= MEMORY_MIB
        and worst["livez_s"] <= LIVEZ_S
        and worst["label_s"] <= LABEL_S
        and worst["taken_mib"] <= TAKEN_MIB
        and not failures
    )
    return Result({"idle_mib": {"server": round(idle)}, **figures}, headline, goal_met)


def _fill(server: Server, bodies: list[bytes]) -> str:
    """A project with images and two labels; the image that is labeled meanwhile."""
    with httpx.Client(
        base_url=server.url, headers=WITH_KEY, trust_env=False, timeout=300
    ) as client:
        client.post("/v1/projects", json={"name": "birds"}).raise_for_status()
        for label in ("heron", "crane"):
            client.post(f"{PROJECT}/labels", json={"name": label}).raise_for_status()
        files = [("files", (f"{n}", body)) for n, body in enumerate(bodies)]
        added = client.post(f"{PROJECT}/pool", files=files).raise_for_status().json()
    return str(added["images"][0]["id"])


def _watched(
    server: Server, image: str, attack: Callable[[Server], Any], idle: float = 0.0
) -> dict[str, Any]:
    """What others see of it, and the memory that it takes."""
    assert server.pid
    waits: dict[str, list[float]] = {"livez": [0.0], "label": [0.0]}
    failed: list[str] = []

    def repeat(name: str, ask: Callable[[httpx.Client, int], httpx.Response]) -> Any:
        def work(stop: threading.Event) -> None:
            number = 0
            with httpx.Client(base_url=server.url, trust_env=False, timeout=120) as client:
                while not number or not stop.wait(0.05):
                    number += 1
                    started = time.perf_counter()
                    try:
                        status = ask(client, number).status_code
                    except httpx.TransportError as error:
                        failed.append(f"{name}: {error!r}")
                        continue
                    waits[name].append(time.perf_counter() - started)
                    if status != 200:
                        failed.append(f"{name}: {status}")

        return work

    def label(client: httpx.Client, number: int) -> httpx.Response:
        choice = {"label": ("heron", "crane")[number % 2]}
        return client.put(f"{PROJECT}/images/{image}/label", json=choice, headers=WITH_KEY)

    Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # its peak counts from now
    started = time.perf_counter()
    with in_background([repeat("livez", lambda c, _: c.get("/livez")), repeat("label", label)]):
        outcome = attack(server)
    statuses = outcome.statuses if outcome else Counter()
    errors = sum(count for status, count in statuses.items() if status.startswith("5"))
    taken = outcome.taken if outcome else None
    return {
        "peak_mib": round(memory("VmHWM", server.pid) - idle, 1),
        "livez_s": round(max(waits["livez"]), 3),
        "label_s": round(max(waits["label"]), 3),
        "taken_mib": None if taken is None else round(taken / MIB, 3),
        "seconds": round(time.perf_counter() - started, 1),
        "statuses": dict(statuses),
        "failures": len(failed) + errors,
        **({"first_failure": failed[0]} if failed else {}),
    }


def _hostile(
    start: str, *headers: str, pieces: Iterable[bytes] = (), repeat: int = 1
) -> Callable[[Server], Outcome]:
    """Bytes without the key, until all are sent or the connection is closed."""
    content = list(pieces)
    head = "\r\n".join((f"{start} HTTP/1.1", "Host: localhost", *headers)) + "\r\n"

    def attack(server: Server) -> Outcome:
        statuses: Counter[str] = Counter()
        most = 0
        for _ in range(repeat):
            status, taken = _until_closed(server.port, (head.encode("latin-1"), *content))
            statuses[status] += 1
            most = max(most, taken)
        return Outcome(statuses, most)

    return attack


def _until_closed(port: int, pieces: Iterable[bytes]) -> tuple[str, int]:
    """The status of the answer, and the bytes that were sent until then."""
    taken = 0
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)
        with suppress(OSError):
            for piece in pieces:
                connection.sendall(piece)
                taken += len(piece)
                time.sleep(0.002)  # so that it can be hung up on
        answer = b""
        with suppress(OSError):
            answer = connection.recv(PIECE)
    return answer[9:12].decode() or "closed", taken


def _many(piece: bytes, size: int) -> Iterator[bytes]:
    block = piece * max(1, PIECE // len(piece))
    for _ in range(size // len(block)):
        yield block


def _chunks(size: int) -> Iterator[bytes]:
    for block in _many(b"x", size):
        yield b"%x\r\n%b\r\n" % (len(block), block)


def _half_open(options: Options) -> Callable[[Server], Outcome]:
    """Connections whose headers do not end, all at once, and others that ask meanwhile."""

    def attack(server: Server) -> Outcome:
        statuses: Counter[str] = Counter()
        with ExitStack() as stack:
            for number in range(options.connections):
                connection = socket.create_connection(("127.0.0.1", server.port), 30)
                stack.enter_context(connection)
                with suppress(OSError):
                    connection.sendall(
                        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: "[: number % 46]
                    )
            for _ in range(60):
                try:
                    answer = httpx.get(f"{server.url}/livez", trust_env=False, timeout=30)
                    statuses[str(answer.status_code)] += 1
                except httpx.TransportError:
                    statuses["5xx: no answer"] += 1
        return Outcome(statuses, 0)

    return attack


def _bodies(
    method: str, path: str, kind: str, *bodies: Callable[[], bytes]
) -> Callable[[Options], Callable[[Server], Outcome]]:
    """Bodies with the key, at once."""

    def prepare(_: Options) -> Callable[[Server], Outcome]:
        contents = [body() for body in bodies]

        def send(server: Server, content: bytes) -> str:
            headers = {**WITH_KEY, "Content-Type": kind}
            with suppress(httpx.TransportError):
                answer = httpx.request(
                    method,
                    server.url + path,
                    content=content,
                    headers=headers,
                    timeout=300,
                    trust_env=False,
                )
                return str(answer.status_code)
            return "closed"

        def attack(server: Server) -> Outcome:
            with ThreadPoolExecutor(len(contents)) as threads:
                return Outcome(Counter(threads.map(lambda c: send(server, c), contents)))

        return attack

    return prepare


def _header(name: str, size: int, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def _gzipped(start: bytes, filling: bytes, size: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    block = filling * (MIB // len(filling))
    parts = [packer.compress(start), *(packer.compress(block) for _ in range(size // MIB))]
    return b"".join((*parts, packer.flush()))


def _folders() -> bytes:
    return _gzipped(b"", _header("a/", 0, tarfile.DIRTYPE) * 2048, 512 * MIB)


def _wide_xz() -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    packer = lzma.LZMACompressor(filters=filters)
    block = bytes(MIB)
    parts = [packer.compress(_header("a", 1 << 32, tarfile.REGTYPE))]
    parts += [packer.compress(block) for _ in range(600)]
    return b"".join((*parts, packer.flush()))


def _crowded_zip() -> bytes:
    entry = struct.pack(
        "<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0
    )
    directory = (entry + b"a") * 400_000
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(directory), 4, 0)
    return b"PK\3\4" + directory + end


def _damaged_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        for number in range(100):
            archive.writestr(f"{number}.png", bytes(range(256)))
    return buffer.getvalue().replace(bytes(range(9)), b"\xff" * 9).replace(b"\x5d\0", b"\xff\xff")


def _vast_png() -> bytes:
    width, height = PIXELS
    packer = zlib.compressobj(1)
    row = bytes(1 + 4 * width)
    rows = b"".join((*(packer.compress(row) for _ in range(height)), packer.flush()))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _part_of_headers() -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="files"; a="' + b"a" * (64 * MIB)


def _pax(content: bytes) -> Callable[[], bytes]:
    return lambda: (
        _header("x", len(content), tarfile.XHDTYPE) + content + bytes(-len(content) % 512)
    )


def _json(part: bytes) -> Callable[[], bytes]:
    return lambda: b"[" + part * (15 * MIB // len(part)) + b"0]"


def _open(*arguments: Any, **options: Any) -> Callable[[Options], Callable[[Server], Outcome]]:
    return lambda _: _hostile(*arguments, **options)


JSON = "Content-Type: application/json"
LENGTH = f"Content-Length: {128 * MIB}"
CHUNKED = "Transfer-Encoding: chunked"
TAR, GZIP = "application/x-tar", "application/gzip"
BACKSLASHES = 'Cookie: handful_session="' + "\\" * 60_000 + '"'
ABUSES = [
    Abuse("header without an end", _open("GET /livez", "X: ", pieces=_many(b"x", 150 * MIB))),
    Abuse("a million headers", _open("GET /livez", pieces=_many(b"a: b\r\n", 6 * MIB))),
    Abuse("address without an end", _open(f"GET /{'x' * (4 * MIB)}")),
    Abuse(
        "trailers without an end",
        _open(SESSION, CHUNKED, "", "0", pieces=_many(b"a: b\r\n", 6 * MIB)),
    ),
    Abuse("half-open connections", _half_open),
    Abuse(
        "malformed headers",
        _open(SESSION, "Origin: http://[", "Authorization: Basic \xff", BACKSLASHES, "", repeat=50),
    ),
    Abuse("malformed host", _open("GET /nowhere", "Host: http://[", "", repeat=50)),
    Abuse(
        "json without the key", _open(SESSION, JSON, LENGTH, "", pieces=_many(b"[],", 128 * MIB))
    ),
    Abuse(
        "text without the key",
        _open(SESSION, "Content-Type: text/plain", CHUNKED, "", pieces=_chunks(128 * MIB)),
    ),
    Abuse(
        "archive without the key",
        _open(POOL, f"Content-Type: {GZIP}", CHUNKED, "", pieces=_chunks(128 * MIB)),
    ),
    Abuse("body nobody reads", _open("GET /livez", LENGTH, "", pieces=_many(b"x", 128 * MIB))),
    Abuse(
        "json of empty lists",
        _bodies("POST", f"{PROJECT}/annotations", "application/x+json", _json(b"[],")),
    ),
    Abuse(
        "json of small objects",
        _bodies("POST", f"{PROJECT}/annotations", "application/json", _json(b'{"a":1},')),
    ),
    Abuse(
        "json just allowed",
        _bodies(
            "POST",
            f"{PROJECT}/annotations",
            "application/json",
            lambda: b'{"annotations":[' + b"{}," * 499_000 + b"{}]}",
        ),
    ),
    Abuse(
        "json nested deeply",
        _bodies("POST", "/v1/projects", "application/json", lambda: b"[" * 900_000),
    ),
    Abuse(
        "long name of a gigabyte",
        _bodies(
            "POST",
            f"{PROJECT}/pool",
            GZIP,
            lambda: _gzipped(_header("x", 1 << 30, tarfile.GNUTYPE_LONGNAME), b"a", 1 << 30),
        ),
    ),
    Abuse(
        "extended header of a gigabyte",
        _bodies(
            "POST",
            f"{PROJECT}/pool",
            GZIP,
            lambda: _gzipped(_header("x", 1 << 30, tarfile.XHDTYPE), b"\0", 1 << 30),
        ),
    ),
    Abuse(
        "extended headers of nonsense",
        _bodies(
            "POST",
            f"{PROJECT}/pool",
            TAR,
            _pax(b"1" * (MIB - 512)),
            _pax(b"2 " * 500_000 + b"a=\n"),
        ),
    ),
    Abuse("a million folders", _bodies("POST", f"{PROJECT}/pool", GZIP, _folders)),
    Abuse("xz with a wide window", _bodies("POST", f"{PROJECT}/pool", TAR, _wide_xz)),
    Abuse("zip of 400,000", _bodies("POST", f"{PROJECT}/pool", "application/zip", _crowded_zip)),
    Abuse(
        "zip of damaged members",
        _bodies("POST", f"{PROJECT}/pool", "application/zip", _damaged_zip),
    ),
    Abuse("vast images", _bodies("POST", f"{PROJECT}/pool", "image/png", *[_vast_png] * 4)),
    Abuse(
        "part of headers",
        _bodies("POST", f"{PROJECT}/pool", "multipart/form-data; boundary=x", _part_of_headers),
    ),
    Abuse(
        "weights that are none",
        _bodies(
            "POST",
            f"{PROJECT}/encoders",
            "application/octet-stream",
            *[lambda: b"\1" + bytes(128 * MIB)] * 2,
        ),
    ),
]


if __name__ == "__main__":
    run(
        measure,
        PHOTOS,
        option("--encoder", "efficientnet_lite:0", quick="conv4:8"),
        option("--connections", 1100, quick=300, help="that are half-open"),
        option("--only", "", help="kinds whose name has this"),
    )
