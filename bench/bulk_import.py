"""`handful import` of many small photos, beside the same work in one process without a service.

Half way the import is stopped as by Ctrl-C, and repeated. During the second half readers look at
the project and rank its pool, and labelers take what is worth labeling next and label it; both wait
a moment between requests, as people and programs do. What counts: the speed of the import, how long
a label takes, the memory of the server, and that every photo is there once and no request failed.
"""

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

from app.cli.benchmark import PROJECT, photos, pipeline, prepare, register
from bench.data import encoded, sample_pictures
from bench.figures import percentiles, timed
from bench.harness import ENCODER, Options, Result, option, run
from bench.processes import ending, in_background, memory, new_server
from handful.client import Handful
from handful.retries import RequestRefused, ServiceUnreachable

READERS, LABELERS = 8, 4
PAUSE_S = 0.5  # of each between requests
BATCH = 16
REGISTERED = 20  # photos that are there before
SHARE, LABEL_MS = 0.9, 50.0
GROWTH_MIB = 512.0  # of the server while photos come in


class Visits(NamedTuple):
    """How requests went that came meanwhile."""

    reads_ms: list[float]
    labels_ms: list[float]
    troubles: list[str]  # of requests that failed


def measure(options: Options) -> Result:
    """Import in one process, half way by the service, and the second half among visitors."""
    visits = Visits([], [], [])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photos"
        _write(folder, options.photos)
        alone = _pipeline(options.encoder, folder)
        print(f"in one process: {alone:.0f} photos/s", flush=True)
        with new_server(encoder=options.encoder) as server, Handful(server.url) as client:
            register(server.url, photos(None, REGISTERED))
            before = memory("VmRSS", server.pid)
            first_s = _import(client, folder, until=options.photos // 2)
            sent = _images(client) - REGISTERED
            print(f"imported: {sent / first_s:.0f} photos/s", flush=True)
            works = [_read] * READERS + [_label] * LABELERS
            visitors = [partial(_visit, server.url, visits, *each) for each in enumerate(works)]
            with in_background(visitors):
                rest_s = _import(client, folder)
            growth = memory("VmRSS", server.pid) - before
            contents = {image.sha256 for image in client.all(client.images, PROJECT)}
    stored = len(contents) - REGISTERED
    rate, visited = sent / first_s, (options.photos - sent) / rest_s
    for trouble in visits.troubles[:5]:
        print(f"trouble: {trouble}")
    labels, reads = (percentiles(ms, 50, 95, 99) for ms in (visits.labels_ms, visits.reads_ms))
    figures = {
        "photos": options.photos,
        "in_one_process_per_s": round(alone, 1),
        "first_import": {"photos": sent, "seconds": round(first_s, 1), "per_s": round(rate, 1)},
        "share": round(rate / alone, 3),
        "with_visitors": {
            "photos": options.photos - sent,
            "seconds": round(rest_s, 1),
            "per_s": round(visited, 1),
        },
        "photos_that_are_there": stored,
        "label_ms": labels,
        "read_ms": reads,
        "requests_that_failed": len(visits.troubles),
        "server_grew_mib": round(growth),
    }
    headline = (
        f"{rate:.0f} photos/s, {100 * rate / alone:.0f} % of one process alone; {visited:.0f} with "
        f"visitors, whose labels take {labels['p50']:.0f} ms, p99 {labels['p99']:.0f} ms of "
        f"{len(visits.labels_ms)}; {stored} of {options.photos} there, "
        f"{len(visits.troubles)} requests failed; the server grew by {growth:.0f} MiB"
    )
    fast = rate >= SHARE * alone and labels["p99"] <= LABEL_MS
    complete = stored == options.photos and not visits.troubles
    return Result(figures, headline, fast and complete and growth <= GROWTH_MIB)


def _write(folder: Path, count: int) -> None:
    """Distinct JPEG files of 128 by 96 pixels."""
    folder.mkdir()
    generator = random.Random(0)
    pictures = sample_pictures()
    for n in range(count):
        x, y = generator.randrange(512), generator.randrange(331)
        picture = pictures[n % len(pictures)].crop((x, y, x + 128, y + 96))
        content = encoded(picture, "JPEG", quality=85, comment=str(n).encode())  # none is twice
        (folder / f"{n:06}.jpg").write_bytes(content)


def _pipeline(encoder: str, folder: Path) -> float:
    """Photos per second of decoding and embedding alone, from files that are read."""
    serving = prepare(encoder, "auto", BATCH)
    files, decoders = sorted(folder.iterdir())[:4000], os.cpu_count() or 1

    def embed() -> None:
        pipeline(serving, [file.read_bytes() for file in files], BATCH, decoders)

    return len(files) / statistics.median(timed(embed)[1] for _ in range(3))


def _import(client: Handful, folder: Path, until: int | None = None) -> float:
    """Seconds of an import; stopped as by Ctrl-C when so many photos are there."""
    command = [sys.executable, "-m", "app.cli", "import", str(folder)]
    command += ["--project", PROJECT, "--url", client.url]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with ending(process):
        while process.poll() is None:
            time.sleep(0.5)
            if until is not None and _images(client) >= until:
                process.send_signal(signal.SIGINT)
                process.wait()
    if until is None and process.returncode:
        raise RuntimeError(f"the import failed with exit code {process.returncode}")
    return time.perf_counter() - started


def _images(client: Handful) -> int:
    project = client.project(PROJECT)
    return project.support + project.pool


def _visit(
    url: str,
    visits: Visits,
    number: int,
    work: Callable[[Handful, int, Visits], None],
    stop: threading.Event,
) -> None:
    """Read or label again and again, with a connection of one's own."""
    with Handful(url, patience_s=0) as client:
        while not stop.wait(PAUSE_S):
            try:
                work(client, number, visits)
            except (RequestRefused, ServiceUnreachable) as error:
                visits.troubles.append(repr(error))


def _read(client: Handful, number: int, visits: Visits) -> None:
    for ask in (client.project, partial(client.rank, strategy="margin")):
        visits.reads_ms.append(1000 * timed(partial(ask, PROJECT))[1])


def _label(client: Handful, number: int, visits: Visits) -> None:
    annotator, label = f"ann-{number}", f"label-{number % 4}"
    ask = partial(client.next_images, PROJECT, annotator, budget=1, strategy="random")
    ranking, seconds = timed(ask)
    visits.reads_ms.append(1000 * seconds)
    for image in ranking.images:
        give = partial(client.set_label, PROJECT, image.image, label, annotator=annotator)
        visits.labels_ms.append(1000 * timed(give)[1])


if __name__ == "__main__":
    run(measure, option("--photos", 100_000, quick=1000), ENCODER)
