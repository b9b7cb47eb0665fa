"""`handful import` of many small photos, beside the same work in one process without a service.

Half way the import is stopped as by Ctrl-C, and repeated. During the second half readers look at
the project and rank its pool, and labelers take what is worth labeling next and label it; both wait
a moment between requests, as people and programs do. What counts: the speed of the import, how long
a label takes, the memory of the server, and that every photo is there once and no request failed.
"""

import argparse
import io
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import httpx
from PIL import Image
from sklearn.datasets import load_sample_images

from app.cli.benchmark import photos, pipeline, prepare, register
from bench.harness import Server, arguments, finish, memory

READERS, LABELERS = 8, 4
PAUSE_S = 0.5  # of each between requests
BATCH = 16
SHARE, LABEL_MS = 0.9, 50.0
GROWTH_MIB = 512.0  # of the server while photos come in


class Answer(NamedTuple):
    """How one request went."""

    what: str  # "read" or "label"
    ms: float
    trouble: str  # empty: none


def main() -> None:
    """Run the benchmark."""
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photos"
        _write(folder, options.photos)
        alone = _pipeline(options.encoder, folder)
        print(f"in one process: {alone:.0f} photos/s", flush=True)
        with Server(Path(name) / "data", encoder=options.encoder) as server:
            register(server.url, photos(None, 20))
            before = memory("VmRSS", server.pid)
            first_s = _import(server.url, folder, until=options.photos // 2)
            sent = _images(server.url) - 20
            print(f"imported: {sent / first_s:.0f} photos/s", flush=True)
            with _Visitors(server.url) as visitors:
                rest_s = _import(server.url, folder)
            grown = memory("VmRSS", server.pid) - before
            there = _images(server.url) - 20 - _doubles(server.url)
    _report(options, alone, (sent, first_s, rest_s), grown, there, visitors.answers)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--encoder", default="efficientnet_lite:0")
    options = parser.parse_args()
    if options.quick:
        options.photos = 1000
    return options


def _write(folder: Path, count: int) -> None:
    """Distinct JPEG files of 128 by 96 pixels."""
    folder.mkdir()
    chance = random.Random(0)
    pictures = [Image.fromarray(picture) for picture in load_sample_images().images]
    for n in range(count):
        left, top = chance.randrange(512), chance.randrange(331)
        picture = pictures[n % len(pictures)].crop((left, top, left + 128, top + 96))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=85, comment=str(n).encode())  # so that none is twice
        (folder / f"{n:06}.jpg").write_bytes(buffer.getvalue())


def _pipeline(encoder: str, folder: Path) -> float:
    """Photos per second of decoding and embedding alone, from files that are read."""
    serving = prepare(encoder, "auto", BATCH)
    files = sorted(folder.iterdir())[:4000]
    rates = []
    for _ in range(3):
        started = time.perf_counter()
        pipeline(serving, [file.read_bytes() for file in files], BATCH, os.cpu_count() or 1)
        rates.append(len(files) / (time.perf_counter() - started))
    return statistics.median(rates)


def _import(url: str, folder: Path, until: int | None = None) -> float:
    """Seconds of an import; stopped as by Ctrl-C when so many photos are there."""
    command = [sys.executable, "-m", "app.cli", "import", str(folder)]
    command += ["--project", "bench", "--url", url]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        time.sleep(0.5)
        if until is not None and _images(url) >= until:
            process.send_signal(signal.SIGINT)
            process.wait()
    if until is None and process.returncode:
        raise RuntimeError(f"the import failed with exit code {process.returncode}")
    return time.perf_counter() - started


def _images(url: str) -> int:
    project = httpx.get(f"{url}/v1/projects/bench", timeout=60, trust_env=False).json()
    return int(project["support"]) + int(project["pool"])


def _doubles(url: str) -> int:
    """Images beyond one for each content; the service promises none."""
    seen: set[str] = set()
    count, after = 0, None
    while True:
        query = {"limit": 500} | ({"cursor": after} if after else {})
        page = httpx.get(
            f"{url}/v1/projects/bench/images", params=query, timeout=60, trust_env=False
        ).json()
        seen |= {image["sha256"] for image in page["items"]}
        count += len(page["items"])
        after = page.get("next_cursor")
        if not after:
            return count - len(seen)


class _Visitors:
    """Readers and labelers, each a thread with a connection of its own."""

    def __init__(self, url: str) -> None:
        self.answers: list[Answer] = []
        self._url, self._stop = url, threading.Event()
        works: list[Callable[[httpx.Client, int], None]] = [self._read] * READERS
        works += [self._label] * LABELERS
        self._threads = [
            threading.Thread(target=self._run, args=(work, n)) for n, work in enumerate(works)
        ]

    def __enter__(self) -> "_Visitors":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, work: Callable[[httpx.Client, int], None], number: int) -> None:
        with httpx.Client(base_url=f"{self._url}/v1", timeout=60, trust_env=False) as client:
            while not self._stop.wait(PAUSE_S):
                work(client, number)

    def _read(self, client: httpx.Client, number: int) -> None:
        self._asked("read", lambda: client.get("/projects/bench"))
        body = {"budget": 10, "strategy": {"name": "margin"}}
        self._asked("read", lambda: client.post("/projects/bench/pool/rank", json=body))

    def _label(self, client: httpx.Client, number: int) -> None:
        body = {"annotator": f"ann-{number}", "budget": 1, "strategy": {"name": "random"}}
        found = self._asked("read", lambda: client.post("/projects/bench/pool/next", json=body))
        for image in found.json()["images"] if found is not None else []:
            path = f"/projects/bench/images/{image['image']}/label"
            label = {"label": f"label-{number % 4}", "annotator": f"ann-{number}"}
            self._asked("label", partial(client.put, path, json=label))

    def _asked(self, what: str, ask: Callable[[], httpx.Response]) -> httpx.Response | None:
        started = time.perf_counter()
        try:
            answer = ask()
        except httpx.TransportError as error:
            self.answers.append(Answer(what, 0.0, repr(error)))
            return None
        trouble = "" if answer.is_success else f"{answer.status_code} {answer.text[:200]}"
        self.answers.append(Answer(what, 1000 * (time.perf_counter() - started), trouble))
        return None if trouble else answer


def _report(
    options: argparse.Namespace,
    alone: float,
    imported: tuple[int, float, float],
    grown: float,
    there: int,
    answers: list[Answer],
) -> None:
    sent, first_s, rest_s = imported
    rate, visited = sent / first_s, (options.photos - sent) / rest_s
    labels = sorted(a.ms for a in answers if a.what == "label" and not a.trouble)
    reads = sorted(a.ms for a in answers if a.what == "read" and not a.trouble)
    troubles = [a.trouble for a in answers if a.trouble]
    for trouble in troubles[:5]:
        print(f"trouble: {trouble}")
    result = {
        "photos": options.photos,
        "in_one_process_per_s": round(alone, 1),
        "first_import": {"photos": sent, "seconds": round(first_s, 1), "per_s": round(rate, 1)},
        "share": round(rate / alone, 3),
        "with_visitors": {
            "photos": options.photos - sent,
            "seconds": round(rest_s, 1),
            "per_s": round(visited, 1),
        },
        "photos_that_are_there": there,
        "label_ms": _spread(labels),
        "read_ms": _spread(reads),
        "requests_that_failed": len(troubles),
        "server_grew_mib": round(grown),
    }
    headline = (
        f"{rate:.0f} photos/s, {100 * rate / alone:.0f} % of one process alone; {visited:.0f} with "
        f"visitors, whose labels take {_spread(labels)['p50']:.0f} ms, p99 "
        f"{_spread(labels)['p99']:.0f} ms of {len(labels)}; {there} of {options.photos} there, "
        f"{len(troubles)} requests failed; the server grew by {grown:.0f} MiB"
    )
    kept = (
        rate >= SHARE * alone
        and _spread(labels)["p99"] <= LABEL_MS
        and there == options.photos
        and not troubles
        and grown <= GROWTH_MIB
    )
    finish(options, result, headline, kept)


def _spread(values: list[float]) -> dict[str, float]:
    """Of sorted values."""
    return {
        f"p{q}": round(values[min(len(values) - 1, len(values) * q // 100)], 1)
        for q in (50, 95, 99)
        if values
    } or {"p50": float("nan"), "p95": float("nan"), "p99": float("nan")}


if __name__ == "__main__":
    main()
