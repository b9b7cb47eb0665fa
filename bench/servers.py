"""This service beside other servers: the same network and weights, the same photos, over HTTP.

One server at a time, in an order that is drawn anew for each repeat. A request brings one photo.
Measured are photos of a folder with 1 to 128 clients, photos of 12 megapixels, and photos of which
every eighth is damaged: how many of the others fail. The client's own CPU time is counted apart.
The peers compute with PyTorch, as their documentation shows; so does one of ours. Peers run in an
environment of their own (`make bench-peers`).
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from app.cli.benchmark import PATH, Request, load, media_type, multipart, photos, register
from bench.harness import (
    ROOT,
    START_S,
    Server,
    arguments,
    finish,
    free_port,
    large_photos,
)

PEERS = Path.home() / ".cache/handful-serving/bin"
CLIENTS = (1, 8, 32, 128)
LARGE_CLIENTS = 8
DAMAGED_CLIENTS = 32
DAMAGED = "one of eight damaged"
SUPPORT = 20  # photos, of four labels
OURS = "handful"


class Kind(NamedTuple):
    """A server that can be measured."""

    command: tuple[str, ...]  # a program of the peers and what it is told; empty: ours
    path: str
    request: Callable[[bytes], Request]  # of one photo
    runtime: str = ""  # of ours


def _raw(photo: bytes) -> Request:
    return Request(media_type(photo), photo, 1)


KINDS = {
    OURS: Kind((), PATH, _raw, "auto"),
    "handful with pytorch": Kind((), PATH, _raw, "pytorch"),
    "FastAPI and torch": Kind(("python", "serve_fastapi.py", "PORT"), "/classify", _raw),
    "LitServe": Kind(
        ("python", "serve_litserve.py", "PORT"), "/classify", lambda p: multipart([p], "photo")
    ),
    "BentoML": Kind(
        ("bentoml", "serve", "serve_bentoml:Service", "--host", "127.0.0.1", "--port", "PORT"),
        "/classify",
        lambda p: multipart([p], "photos"),
    ),
}


class Measured(NamedTuple):
    """One workload on one server."""

    images_per_s: float
    latencies_ms: list[float]
    client_cpu_ms: float  # of a photo
    failed: int  # photos that are whole


def main() -> None:
    """Run the benchmark."""
    options = _options()
    names = [name for name, kind in KINDS.items() if not kind.command or options.peers.exists()]
    if len(names) < len(KINDS):
        print(f"peers: skipped, {options.peers} is not there; make bench-peers")
    small = photos(options.images, 64 if options.quick else 256)
    large = large_photos(8 if options.quick else 24)
    found: dict[str, dict[str, list[Measured]]] = {name: {} for name in names}
    for repeat in range(1 if options.quick else options.repeats):
        random.Random(repeat).shuffle(names)
        for name in names:
            kind = KINDS[name]
            with (
                tempfile.TemporaryDirectory() as folder,
                _running(kind, Path(folder), options.peers, small) as port,
            ):
                load(port, [kind.request(p) for p in small[:64]], 8, kind.path)  # warms up
                for workload, one in _measure(kind, port, small, large):
                    found[name].setdefault(workload, []).append(one)
                    print(f"{name:<22}{workload:<28}{one.images_per_s:>8.1f} photos/s", flush=True)
    _report(options, found)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=Path, help="folder of photos instead of scikit-learn's")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", type=Path, default=PEERS, help="folder of their programs")
    return parser.parse_args()


@contextmanager
def _running(kind: Kind, folder: Path, peers: Path, small: Sequence[bytes]) -> Iterator[int]:
    """The port of a server that answers."""
    if not kind.command:
        with Server(folder, runtime=kind.runtime, max_queue_images="4096") as server:
            register(server.url, small)
            yield server.port
        return
    for n, photo in enumerate(small[:SUPPORT]):
        (folder / f"label-{n % 4}_{n}.jpg").write_bytes(photo)
    port = free_port()
    program, *told = (str(port) if word == "PORT" else word for word in kind.command)
    process = subprocess.Popen(
        [peers / program, *told],
        cwd=ROOT / "bench/peers",
        env={**os.environ, "BENCH_SUPPORT": str(folder), "BENTOML_DO_NOT_TRACK": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # it has processes of its own, which are to end with it
    )
    try:
        _wait(process, port, kind, small[0])
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: "subprocess.Popen[bytes]", port: int, kind: Kind, photo: bytes) -> None:
    request, deadline = kind.request(photo), time.monotonic() + START_S
    url, headers = f"http://127.0.0.1:{port}{kind.path}", {"Content-Type": request.content_type}
    while time.monotonic() < deadline and process.poll() is None:
        try:
            answer = httpx.post(url, content=request.body, headers=headers, trust_env=False)
        except httpx.TransportError:
            pass
        else:
            if answer.status_code == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"{kind.command} did not become ready; exit code {process.poll()}")


def _measure(
    kind: Kind, port: int, small: Sequence[bytes], large: Sequence[bytes]
) -> Iterator[tuple[str, Measured]]:
    whole = [kind.request(photo) for photo in small]
    for clients in CLIENTS:
        yield f"{clients} at a time", _one(kind, port, whole, clients)
    big = [kind.request(photo) for photo in large]
    yield f"12 megapixels, {LARGE_CLIENTS} at a time", _one(kind, port, big, LARGE_CLIENTS)
    damaged = {
        n: kind.request(photo[: len(photo) // 2]) for n, photo in enumerate(small) if n % 8 == 7
    }
    mixed = [damaged.get(n, request) for n, request in enumerate(whole)]
    yield DAMAGED, _one(kind, port, mixed, DAMAGED_CLIENTS, {*damaged.values()})


def _one(
    kind: Kind,
    port: int,
    requests: Sequence[Request],
    clients: int,
    damaged: frozenset[Request] | set[Request] = frozenset(),
) -> Measured:
    started = time.process_time()
    run = load(port, requests, clients, kind.path, strict=False)
    spent = 1000 * (time.process_time() - started) / len(requests)
    failed = sum(request not in damaged for request in run.refused)
    return Measured(run.images_per_s, run.latencies_ms, spent, failed)


def _report(options: argparse.Namespace, found: dict[str, dict[str, list[Measured]]]) -> None:
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for workload in next(iter(found.values())):
        title = f"{workload}: photos/s, median [lowest, highest]"
        print(f"\n{title:<58}{'p50 ms':>9}{'p99 ms':>9}{'client ms':>11}{'failed':>8}")
        rows[workload] = {}
        for name in (name for name in KINDS if name in found):
            row = rows[workload][name] = _row(found[name][workload])
            spread = f"[{row['lowest']:.1f}, {row['highest']:.1f}]"
            print(
                f"  {name:<24}{row['photos_per_s']:>12.1f} {spread:<19}{row['p50_ms']:>9.0f}"
                f"{row['p99_ms']:>9.0f}{row['client_cpu_ms']:>11.2f}{row['failed']:>8}"
            )
    peers = [name for name in found if KINDS[name].command]
    kept, said = rows[DAMAGED][OURS]["failed"] == 0, []
    for workload, by_server in rows.items():
        if peers and workload != DAMAGED:
            best = max(by_server[name]["photos_per_s"] for name in peers)
            tail = min(by_server[name]["p99_ms"] for name in peers)
            times = by_server[OURS]["photos_per_s"] / best
            said.append(f"{times:.2f} x the best peer, {workload}")
            by_server[OURS] |= {
                "of_the_best_peer": round(times, 3),
                "p99_of_the_best_peer": round(by_server[OURS]["p99_ms"] / tail, 3),
            }
    lost = ", ".join(f"{name} {row['failed']}" for name, row in rows[DAMAGED].items())
    said.append(f"whole photos that failed beside damaged ones: {lost}")
    versions = _versions(options.peers) if peers else {}
    finish(options, {"versions": versions, "runs": rows}, "; ".join(said), kept)


def _row(runs: Sequence[Measured]) -> dict[str, Any]:
    speeds = [run.images_per_s for run in runs]
    latencies = sorted(ms for run in runs for ms in run.latencies_ms)
    return {
        "photos_per_s": round(statistics.median(speeds), 2),
        "lowest": round(min(speeds), 2),
        "highest": round(max(speeds), 2),
        "p50_ms": round(latencies[len(latencies) // 2], 1),
        "p99_ms": round(latencies[int(len(latencies) * 0.99)], 1),
        "client_cpu_ms": round(statistics.median(run.client_cpu_ms for run in runs), 3),
        "failed": sum(run.failed for run in runs),
    }


def _versions(peers: Path) -> dict[str, str]:
    code = (
        "import importlib.metadata as m, json; print(json.dumps({p: m.version(p) for p in "
        "('fastapi', 'litserve', 'bentoml', 'torch', 'timm')}))"
    )
    command: list[str | Path] = [peers / "python", "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(found.stdout)
    return versions


if __name__ == "__main__":
    main()
