"""Images per second over HTTP, beside the same work done in a loop without a server.

Both decode, resize and embed the same photos with as many threads; the loop decodes ahead while
the network runs. They take turns, so that a noisy machine disturbs both alike.
"""

import argparse
import http.client
import io
import itertools
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from app.client import Handful
from app.importing import SUFFIXES
from app.inference import keep_freed_memory
from bench.harness import Server, arguments, finish
from models.encoders import parse, pick_device
from models.images import Preprocessing, decode
from models.runtimes import Chooser, Resources

CONCURRENCY = (1, 8, 32)
BATCH = 16  # as HANDFUL_MAX_BATCH
BOUNDARY = "handful-bench"
PATH = "/v1/projects/bench/classify"


class Request(NamedTuple):
    """A body that is sent as it is."""

    content_type: str
    body: bytes
    images: int


class Run(NamedTuple):
    """One measurement."""

    images_per_s: float
    latencies_ms: list[float]


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=Path, help="folder of photos instead of scikit-learn's")
    parser.add_argument("--encoder", default="efficientnet_lite:0")
    parser.add_argument("--repeats", type=int, default=5, help="after a round that warms up")
    options = parser.parse_args()
    bodies = photos(options.images, 64 if options.quick else 512)
    shapes: dict[str, list[Request]] = {
        "raw, 1 image": [Request(media_type(photo), photo, 1) for photo in bodies],
        "multipart, 16 images": [
            _multipart(bodies[i : i + BATCH]) for i in range(0, len(bodies), BATCH)
        ],
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(Path(folder), encoder=options.encoder, max_queue_images="4096") as server,
    ):
        register(server.url, bodies)
        loop = _loop(options.encoder, bodies)
        repeats = 2 if options.quick else options.repeats
        measured = _measure(loop, shapes, server.port, repeats)
    _report(options, measured)


def _measure(
    loop: Callable[[], Run], shapes: dict[str, list[Request]], port: int, repeats: int
) -> dict[str, list[Run]]:
    measured: dict[str, list[Run]] = {}
    for repeat in range(repeats + 1):
        runs = {"in-process loop": loop()}
        for (name, requests), clients in itertools.product(shapes.items(), CONCURRENCY):
            runs[f"{name}, {clients} at a time"] = load(port, requests, clients)
        for name, run in runs.items():
            if repeat:  # the first round warms up
                measured.setdefault(name, []).append(run)
                print(f"{name:<36}{run.images_per_s:>8.1f} images/s", flush=True)
    return measured


def _loop(spec: str, photos: Sequence[bytes]) -> Callable[[], Run]:
    """What the service does to an image, without a service."""
    device = pick_device("auto")
    if device.type == "cpu":
        keep_freed_memory()
    _, architecture = parse(spec)
    resources = Resources(threads=torch.get_num_threads(), batch=BATCH)
    serving = Chooser("auto", resources).prepare(architecture.build().eval().to(device))
    print(f"both compute with {serving.runtime} on {device}")

    def run() -> Run:
        started = time.perf_counter()
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for batch in _decoded(threads, serving.preprocessing, photos):
                serving.embed(torch.stack(batch))
        return Run(len(photos) / (time.perf_counter() - started), [])

    return run


def _decoded(
    threads: ThreadPoolExecutor, preprocessing: Preprocessing, photos: Sequence[bytes]
) -> Iterator[list[torch.Tensor]]:
    """Batches of decoded images; four are decoded ahead."""
    rest = iter(photos)
    ahead = [
        threads.submit(decode, photo, preprocessing) for photo in itertools.islice(rest, 4 * BATCH)
    ]
    while ahead:
        batch, ahead = ahead[:BATCH], ahead[BATCH:]
        yield [future.result().pixels for future in batch]
        ahead += [
            threads.submit(decode, photo, preprocessing) for photo in itertools.islice(rest, BATCH)
        ]


def load(port: int, requests: Sequence[Request], clients: int) -> Run:
    """Send every request once, `clients` at a time, each on a connection of its own."""
    todo = iter(requests)
    lock = threading.Lock()
    latencies: list[float] = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        while True:
            with lock:
                request = next(todo, None)
            if request is None:
                break
            started = time.perf_counter()
            headers = {"Content-Type": request.content_type}
            connection.request("POST", PATH, request.body, headers)
            answer = connection.getresponse()
            text = answer.read()
            latencies.append(1000 * (time.perf_counter() - started))
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {text[:300]!r}")
        connection.close()

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        for future in [threads.submit(client) for _ in range(clients)]:
            future.result()
    images = sum(request.images for request in requests)
    return Run(images / (time.perf_counter() - started), latencies)


def _report(options: argparse.Namespace, measured: dict[str, list[Run]]) -> None:
    loop = statistics.median(run.images_per_s for run in measured["in-process loop"])
    print(
        f"\n{'median [lowest, highest]':<38}{'images/s':>22}{'ratio':>7}{'p50 ms':>9}{'p99 ms':>9}"
    )
    rows: dict[str, dict[str, float]] = {}
    for name, runs in measured.items():
        speeds = [run.images_per_s for run in runs]
        latencies = sorted(ms for run in runs for ms in run.latencies_ms)
        row = {
            "images_per_s": statistics.median(speeds),
            "lowest": min(speeds),
            "highest": max(speeds),
            "ratio": statistics.median(speeds) / loop,
        }
        if latencies:
            row["p50_ms"] = latencies[len(latencies) // 2]
            row["p99_ms"] = latencies[int(len(latencies) * 0.99)]
        rows[name] = {key: round(value, 3) for key, value in row.items()}
        print(
            f"{name:<38}{row['images_per_s']:>8.1f} [{row['lowest']:.1f}, {row['highest']:.1f}]"
            f"{row['ratio']:>7.2f}{row.get('p50_ms', 0):>9.0f}{row.get('p99_ms', 0):>9.0f}"
        )
    raw, many = (
        rows[f"{shape}, 32 at a time"] for shape in ("raw, 1 image", "multipart, 16 images")
    )
    headline = (
        f"32 at a time: {raw['images_per_s']:.0f} images/s raw ({raw['ratio']:.2f} of the loop), "
        f"{many['images_per_s']:.0f} in 16s ({many['ratio']:.2f}); the loop does {loop:.0f}"
    )
    finish(options, {"runs": rows}, headline, kept=raw["ratio"] >= 0.8 and many["ratio"] >= 0.8)


def photos(folder: Path | None, count: int) -> list[bytes]:
    """Distinct JPEG files of photos."""
    if folder is not None:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise SystemExit(f"{folder} has no images")
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


def register(url: str, photos: Sequence[bytes]) -> None:
    """Make the project, and give it twenty photos under four labels."""
    with Handful(url) as client, tempfile.TemporaryDirectory() as folder:
        client.ensure_project("bench")
        for n, photo in enumerate(photos[:20]):
            path = Path(folder) / f"{n}.jpg"
            path.write_bytes(photo)
            client.add_support("bench", f"label-{n % 4}", [path])


def _multipart(photos: Sequence[bytes]) -> Request:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{n}.jpg"\r\n'
        f"Content-Type: {media_type(photo)}\r\n\r\n".encode()
        + photo
        + b"\r\n"
        for n, photo in enumerate(photos)
    ]
    body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    return Request(f"multipart/form-data; boundary={BOUNDARY}", body, len(photos))


def media_type(photo: bytes) -> str:
    """Of a photo that is a PNG or a JPEG."""
    return "image/png" if photo.startswith(b"\x89PNG") else "image/jpeg"


if __name__ == "__main__":
    main()
