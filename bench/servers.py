"""This service beside other servers: the same network and weights, the same photos, over HTTP.

One server at a time, in an order that is drawn anew for each repeat. A request brings one photo.
Measured are photos of a folder with 1 to 128 clients, photos of 12 megapixels, and photos of which
every eighth is damaged: how many of the others fail.
The peers compute with PyTorch, as their documentation shows; so does one of ours.
"""

import os
import random
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

from app.cli.benchmark import PATH, Request, Run, load, multipart, photos, register
from bench.data import large_photos
from bench.figures import percentiles, spread
from bench.harness import PHOTOS, Options, Result, option, peers, run
from bench.processes import ROOT, free_port, new_server, single, wait_until_ready

CLIENTS = (1, 8, 32, 128)
LARGE_CLIENTS = 8
DAMAGED_CLIENTS = 32
DAMAGED = "one of eight damaged"
SUPPORT = 20  # photos, of four labels
OURS = "handful"
PACKAGES = ("fastapi", "litserve", "bentoml", "torch", "timm")  # whose versions count


class Kind(NamedTuple):
    """A server that can be measured."""

    command: tuple[str, ...]  # a program of the peers and its arguments; empty: ours
    request: Callable[[bytes], Request]  # of one photo
    path: str = "/classify"
    runtime: str = ""  # of ours


KINDS = {
    OURS: Kind((), single, PATH, "auto"),
    "handful with pytorch": Kind((), single, PATH, "pytorch"),
    "FastAPI and torch": Kind(("python", "serve_fastapi.py", "PORT"), single),
    "LitServe": Kind(("python", "serve_litserve.py", "PORT"), lambda p: multipart([p], "photo")),
    "BentoML": Kind(
        ("bentoml", "serve", "serve_bentoml:Service", "--host", "127.0.0.1", "--port", "PORT"),
        lambda p: multipart([p], "photos"),
    ),
}


def measure(options: Options) -> Result:
    """Measure one server at a time, in another order in each repeat."""
    names = [name for name, kind in KINDS.items() if not kind.command or options.peers]
    small = photos(options.images, 64 if options.quick else 256)
    large = large_photos(8 if options.quick else 24)
    measured: dict[str, dict[str, list[Run]]] = {}  # by workload and server
    for repeat in range(options.repeats):
        random.Random(repeat).shuffle(names)
        for name in names:
            kind = KINDS[name]
            with _running(kind, options.peers, small) as port:
                load(port, [kind.request(p) for p in small[:64]], 8, kind.path)  # warms up
                for workload, result in _measure(kind, port, small, large):
                    measured.setdefault(workload, {}).setdefault(name, []).append(result)
                    speed = f"{result.images_per_s:>8.1f} photos/s"
                    print(f"{name:<22}{workload:<28}{speed}", flush=True)
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    parts = []
    for workload, runs in measured.items():
        rows[workload] = by_server = {name: _row(runs[name]) for name in KINDS if name in runs}
        theirs = [row for name, row in by_server.items() if KINDS[name].command]
        if theirs and workload != DAMAGED:
            ours = by_server[OURS]
            times = ours["photos_per_s"] / max(row["photos_per_s"] for row in theirs)
            tail = ours["p99_ms"] / min(row["p99_ms"] for row in theirs)
            ours |= {"of_the_best_peer": round(times, 3), "p99_of_the_best_peer": round(tail, 3)}
            parts.append(f"{times:.2f} x the best peer, {workload}")
    lost = ", ".join(f"{name} {row['failed']}" for name, row in rows[DAMAGED].items())
    parts.append(f"whole photos that failed beside damaged ones: {lost}")
    versions = _versions(options.peers) if options.peers else {}
    goal_met = rows[DAMAGED][OURS]["failed"] == 0
    return Result({"versions": versions, "runs": rows}, "; ".join(parts), goal_met)


@contextmanager
def _running(kind: Kind, peers: Path, small: Sequence[bytes]) -> Iterator[int]:
    """The port of a server that answers."""
    if not kind.command:
        with new_server(runtime=kind.runtime, max_queue_images="4096") as server:
            register(server.url, small)
            yield server.port
        return
    port = free_port()
    program, *arguments = (str(port) if word == "PORT" else word for word in kind.command)
    with tempfile.TemporaryDirectory() as folder:
        for n, photo in enumerate(small[:SUPPORT]):
            (Path(folder) / f"label-{n % 4}_{n}.jpg").write_bytes(photo)
        process = subprocess.Popen(
            [peers / program, *arguments],
            cwd=ROOT / "bench/peers",
            env={**os.environ, "BENCH_SUPPORT": folder, "BENTOML_DO_NOT_TRACK": "true"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # it has processes of its own, which are to end with it
        )
        try:
            ask = partial(load, port, [kind.request(small[0])], 1, kind.path, strict=False)
            wait_until_ready(process, lambda: not ask().refused)
            yield port
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # it has nothing to lose
            process.wait()


def _measure(
    kind: Kind, port: int, small: Sequence[bytes], large: Sequence[bytes]
) -> Iterator[tuple[str, Run]]:
    """Workloads, and how they went; of photos that are refused only those that are whole."""
    send = partial(load, port, path=kind.path, strict=False)
    whole = [kind.request(photo) for photo in small]
    for clients in CLIENTS:
        yield f"{clients} at a time", send(whole, clients)
    big = [kind.request(photo) for photo in large]
    yield f"12 megapixels, {LARGE_CLIENTS} at a time", send(big, LARGE_CLIENTS)
    damaged = {
        n: kind.request(photo[: len(photo) // 2]) for n, photo in enumerate(small) if n % 8 == 7
    }
    mixed = [damaged.get(n, request) for n, request in enumerate(whole)]
    run = send(mixed, DAMAGED_CLIENTS)
    refused = [request for request in run.refused if request not in damaged.values()]
    yield DAMAGED, run._replace(refused=refused)


def _row(runs: Sequence[Run]) -> dict[str, Any]:
    latencies = [ms for run in runs for ms in run.latencies_ms]
    return {
        **spread([run.images_per_s for run in runs], 2, median="photos_per_s"),
        **percentiles(latencies, 50, 99, name="p{}_ms"),
        "failed": sum(len(run.refused) for run in runs),
    }


def _versions(peers: Path) -> dict[str, str]:
    (site,) = peers.parent.glob("lib/python*/site-packages")
    installed = {package.name: package.version for package in distributions(path=[str(site)])}
    return {name: installed[name] for name in PACKAGES}


if __name__ == "__main__":
    programs = Path.home() / ".cache/handful-serving/bin"
    run(
        measure,
        PHOTOS,
        option("--repeats", 5, quick=1),
        peers("FastAPI, LitServe, BentoML", programs, "folder of their programs"),
    )
