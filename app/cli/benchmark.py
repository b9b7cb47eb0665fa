"""What a machine can do: the ceiling of each stage, and where the time of requests goes."""

import http.client
import io
import itertools
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images

from app.inference.process import keep_freed_memory, look_past_what_stays
from app.settings import Settings
from handful.client import Handful
from handful.folders import SUFFIXES
from models.encoders import pick_device
from models.encoders.specs import parse
from models.images import Preprocessing, decode
from models.runtimes import Resources
from models.runtimes.batch_buffer import BatchBuffer
from models.runtimes.selector import RuntimeSelector, Serving
from models.runtimes.streams import compute_alone, speed_of_streams
from models.runtimes.trial import speed

AT_ONCE = 16  # images of a request that has many
CLIENTS = 8
AHEAD = 4  # batches that are decoded while the network runs
START_S = 120.0
BOUNDARY = "handful-bench"
PROJECT = "bench"
PATH = f"/v1/projects/{PROJECT}/classify"
STAGES = ("admit", "decode", "queue", "forward", "post")


class NoPhotos(ValueError):
    """There is nothing to measure with; the message says why in one sentence."""


class ServiceDidNotStart(RuntimeError):
    """The service that was to be measured ended, or did not become ready."""


class Request(NamedTuple):
    """A body that is sent as it is."""

    content_type: str
    body: bytes
    images: int


class Run(NamedTuple):
    """One measurement."""

    images_per_s: float  # that were answered
    latencies_ms: list[float]  # of requests
    refused: list[Request] = []  # noqa: RUF012 - a tuple's default is never changed


def run(settings: Settings, folder: Path | None, seconds: float, console: Console) -> None:
    """Measure and print.

    Args:
        folder: photos to measure with; scikit-learn's two, cut out, if None.
        seconds: that each measurement takes, about.

    Raises:
        NoPhotos: there are no images in the folder.
        ServiceDidNotStart: the service does not start with these settings.
    """
    found = photos(folder, 256)
    threads = torch.get_num_threads()
    serving = prepare(settings.encoder, settings.runtime, settings.max_batch, settings.device)
    console.print(
        f"{settings.encoder} with {serving.runtime} on {pick_device(settings.device)}, "
        f"{threads} threads, {os.cpu_count()} cores; {len(found)} photos",
        highlight=False,
    )
    decoders = settings.decode_threads or os.cpu_count() or 1
    rows = {
        "decode, 1 thread": _decoding(serving.preprocessing, found, 1, seconds),
        f"decode, {decoders} threads": _decoding(serving.preprocessing, found, decoders, seconds),
    }
    encoder = parse(settings.encoder)[1].build().eval()
    for size in sorted({1, 8, settings.max_batch}):
        rows[f"forward, {size} at a time"] = speed(serving.embed, encoder, size)
    if streams := serving.streams:
        name = f"forward, {streams.number} streams of {streams.batch}"
        rows[name] = speed_of_streams(streams.embed, encoder, streams.batch, streams.number)
    rows["both at once, no service"] = ceiling = _repeated(
        lambda part: pipeline(serving, part, settings.max_batch, decoders), found, seconds
    )
    with tempfile.TemporaryDirectory() as data, _service(settings, Path(data)) as url:
        register(url, found)
        port = int(url.rpartition(":")[2])
        alone = [Request(media_type(photo), photo, 1) for photo in found]
        look_past_what_stays()  # which would count as the service's delay
        many = [multipart(found[n : n + AT_ONCE]) for n in range(0, len(found), AT_ONCE)]
        spent: dict[str, dict[str, float]] = {}
        for name, requests in {"1 photo": alone, f"{AT_ONCE} photos": many}.items():
            load(port, requests, CLIENTS)  # warms up
            before, started, images = _stages(url), time.perf_counter(), 0
            while time.perf_counter() - started < seconds:
                load(port, requests, CLIENTS)
                images += sum(request.images for request in requests)
            rows[f"service, {name} a request"] = images / (time.perf_counter() - started)
            after = _stages(url)
            spent[name] = {s: 1000 * (after[s] - before[s]) / images for s in STAGES}
    _print(console, rows, ceiling, spent)


def prepare(spec: str, runtime: str, batch: int, device: str = "auto") -> Serving:
    """The encoder as the service computes it, with the threads that torch has."""
    on = pick_device(device)
    if on.type == "cpu":
        keep_freed_memory()
    resources = Resources(threads=torch.get_num_threads(), batch=batch)
    return RuntimeSelector(runtime, resources).prepare(parse(spec)[1].build().eval().to(on))


def pipeline(serving: Serving, bodies: Sequence[bytes], batch: int, decoders: int) -> None:
    """What the service does to images, without a service."""
    if serving.streams:
        embed, size = serving.streams.embed, serving.streams.batch
        parts = [bodies[start : start + size] for start in range(0, len(bodies), size)]
        kept = threading.local()

        def compute(part: Sequence[bytes]) -> None:
            if not hasattr(kept, "buffer"):
                kept.buffer = BatchBuffer()
            pixels = [decode(body, serving.preprocessing).pixels for body in part]
            embed(kept.buffer.gather(pixels, serving.device))

        with ThreadPoolExecutor(serving.streams.number, initializer=compute_alone) as threads:
            for _ in threads.map(compute, parts):
                pass
        return
    cores, buffer = torch.get_num_threads(), BatchBuffer()
    torch.set_num_threads(cores if serving.in_caller else 1)  # or a team of it would spin
    with ThreadPoolExecutor(decoders) as threads:
        rest = iter(bodies)
        ahead = [
            threads.submit(decode, body, serving.preprocessing)
            for body in itertools.islice(rest, AHEAD * batch)
        ]
        while ahead:
            now, ahead = ahead[:batch], ahead[batch:]
            pixels = [future.result().pixels for future in now]
            serving.embed(buffer.gather(pixels, serving.device))
            ahead += [
                threads.submit(decode, body, serving.preprocessing)
                for body in itertools.islice(rest, batch)
            ]
    torch.set_num_threads(cores)


def load(
    port: int, requests: Sequence[Request], clients: int, path: str = PATH, *, strict: bool = True
) -> Run:
    """Send every request once, `clients` at a time, each on a connection of its own.

    Raises:
        RuntimeError: one is refused, and `strict`.
    """
    todo = iter(requests)
    lock = threading.Lock()
    latencies: list[float] = []
    refused: list[Request] = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        while True:
            with lock:
                request = next(todo, None)
            if request is None:
                break
            started = time.perf_counter()
            try:
                _send(connection, path, request)
            except (RuntimeError, OSError, http.client.HTTPException):
                if strict:
                    raise
                refused.append(request)
                connection.close()  # as some servers do then, without a word
            latencies.append(1000 * (time.perf_counter() - started))
        connection.close()

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        for future in [threads.submit(client) for _ in range(clients)]:
            future.result()
    images = sum(request.images for request in requests)
    images -= sum(request.images for request in refused)
    return Run(images / (time.perf_counter() - started), latencies, refused)


def _send(connection: http.client.HTTPConnection, path: str, request: Request) -> None:
    headers = {"Content-Type": request.content_type}
    connection.request("POST", path, request.body, headers)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status not in (200, 201):
        raise RuntimeError(f"{answer.status}: {text[:300]!r}")


def photos(folder: Path | None, count: int) -> list[bytes]:
    """Image files of a folder, or distinct JPEGs cut out of scikit-learn's two photos.

    Raises:
        NoPhotos: there are none in the folder.
    """
    if folder is not None:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise NoPhotos(f"{folder} has no images ({', '.join(sorted(SUFFIXES))})")
        random.Random(0).shuffle(paths)
        return [path.read_bytes() for path in paths[:count]]
    chance = random.Random(0)
    pictures = [Image.fromarray(picture) for picture in load_sample_images().images]
    found = []
    for n in range(count):
        left, top = chance.randrange(200), chance.randrange(100)
        buffer = io.BytesIO()
        picture = pictures[n % len(pictures)].crop((left, top, left + 400, top + 300))
        picture.save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def register(url: str, bodies: Sequence[bytes]) -> None:
    """Make the project, and give it twenty photos under four labels."""
    with Handful(url) as client, tempfile.TemporaryDirectory() as folder:
        client.get_or_create_project(PROJECT)
        for n, body in enumerate(bodies[:20]):
            path = Path(folder) / f"{n}.jpg"
            path.write_bytes(body)
            client.add_support(PROJECT, f"label-{n % 4}", [path])


def multipart(bodies: Sequence[bytes], field: str = "files") -> Request:
    """A request with many photos."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{n}.jpg"\r\n'
        f"Content-Type: {media_type(body)}\r\n\r\n".encode()
        + body
        + b"\r\n"
        for n, body in enumerate(bodies)
    ]
    form = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    return Request(f"multipart/form-data; boundary={BOUNDARY}", form, len(bodies))


def media_type(body: bytes) -> str:
    """Of a photo that is a PNG or a JPEG."""
    return "image/png" if body.startswith(b"\x89PNG") else "image/jpeg"


def _decoding(
    preprocessing: Preprocessing, bodies: Sequence[bytes], threads: int, seconds: float
) -> float:
    def all_of(part: Sequence[bytes]) -> None:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda body: decode(body, preprocessing), part):
                pass

    return _repeated(all_of, bodies, seconds)


def _repeated(
    work: Callable[[Sequence[bytes]], None], bodies: Sequence[bytes], seconds: float
) -> float:
    """Images per second: the median time of all images, after one that warms up."""
    work(bodies)
    took: list[float] = []
    while not took or sum(took) < seconds:
        started = time.perf_counter()
        work(bodies)
        took.append(time.perf_counter() - started)
    return len(bodies) / statistics.median(took)


@contextmanager
def _service(settings: Settings, data: Path) -> Iterator[str]:
    """A service in a process of its own, on this machine alone, that knows nothing; its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HANDFUL_")}
    own = {
        "data_dir": data,
        "encoder": settings.encoder,
        "device": settings.device,
        "runtime": settings.runtime,
        "max_batch": settings.max_batch,
        "decode_threads": settings.decode_threads,
        "log_level": "ERROR",
        "workers": 0,
        "drain_seconds": 0,
    }
    environment = kept | {f"HANDFUL_{name.upper()}": str(value) for name, value in own.items()}
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_S
        while not _is_ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServiceDidNotStart(
                    "the service did not start; `handful serve` with these settings says why"
                )
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _stages(url: str) -> dict[str, float]:
    """Seconds spent in each stage so far."""
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    found = re.findall(r'handful_stage_seconds_sum\{stage="(\w+)"\} (\S+)', text)
    return dict.fromkeys(STAGES, 0.0) | {stage: float(sum_) for stage, sum_ in found}


def _print(
    console: Console, rows: dict[str, float], ceiling: float, spent: dict[str, dict[str, float]]
) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("", "images/s", "ms each", "of the ceiling"):
        table.add_column(column, justify="right" if column else "left")
    for name, rate in rows.items():
        share = f"{100 * rate / ceiling:.0f} %" if name.startswith("service") else ""
        table.add_row(name, f"{rate:.0f}", f"{1000 / rate:.2f}", share)
    console.print(table)
    slower = min(("decode", "forward"), key=lambda stage: _best(rows, stage))
    console.print(
        f"\nThe ceiling is {ceiling:.0f} images per second; {slower} is what bounds it. "
        "Where the time of an image goes in the service, in ms:\n",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    for column in ("", *STAGES):
        table.add_column(column, justify="right" if column else "left")
    for name, stages in spent.items():
        table.add_row(f"{name} a request", *(f"{stages[stage]:.2f}" for stage in STAGES))
    console.print(table)
    console.print(
        "\nadmit and queue are waiting, forward is shared by a batch; what a request takes beyond "
        "these is HTTP.",
        highlight=False,
    )


def _best(rows: dict[str, float], stage: str) -> float:
    return max(rate for name, rate in rows.items() if name.startswith(stage))
