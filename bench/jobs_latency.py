"""How long classifying takes while a job trains beside the server, and while none does.

Four clients send photos, a raw body each, to `handful serve` with its worker. Rounds with and
without training take turns; in those without, the job's process is stopped (SIGSTOP), so that it
has its memory but no processor, and a round can follow the other at once. Then jobs are cancelled
while they train, and it is measured how long it takes until they have ended.
"""

import argparse
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from app.cli.benchmark import Request, load, media_type, photos
from bench.harness import Server, arguments, children, finish
from handful import folders
from handful.client import Handful

CLIENTS = 4
GOAL = 1.5  # p99 while training, as a factor of p99 without
SHOTS = 20  # of each label, at most
PATIENCE_S = 300.0  # until the job trains
SETTLE_S = 0.5  # before a round
CANCELS = 5  # of jobs that train
TRAINED_S = 3.0  # before its cancel
CANCELLED_S = 1.0  # from the request to the end, at most
POLL_S = 0.02
# More epochs than there is time for; all layers learn, which is the most that a job computes.
JOB = {
    "kind": "finetune",
    "options": {
        "methods": [{"name": "full"}],
        "recipe": {"epochs": 100_000},
        "promote": "never",
    },
}


class Round(NamedTuple):
    """One measurement."""

    images_per_s: float
    latencies_ms: list[float]
    cores: float  # that the job had, on average

    @property
    def p50(self) -> float:
        return _percentile(self.latencies_ms, 0.5)

    @property
    def p99(self) -> float:
        return _percentile(self.latencies_ms, 0.99)


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of class folders")
    parser.add_argument("--encoder", default="efficientnet_lite:0")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"the load average is {load:.1f} already: figures of a busy machine are worth little")
    settings: dict[str, dict[str, str]] = {"as it comes": {}}
    if (os.cpu_count() or 1) > 2:
        settings["one training thread"] = {"training_threads": "1"}
    cancels: list[float] = []
    measured = {name: _measure(options, cancels, **given) for name, given in settings.items()}
    _report(options, load, measured, cancels)


def _measure(
    options: argparse.Namespace, cancels: list[float], **settings: str
) -> dict[str, list[Round]]:
    rounds, requests = (3, 100) if options.quick else (8, 400)
    bodies = [Request(media_type(p), p, 1) for p in photos(options.images, requests)]
    bodies = (bodies * (requests // len(bodies) + 1))[:requests]
    measured: dict[str, list[Round]] = {"idle": [], "training": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        # A job that is stopped for a round must not be taken for lost.
        Server(
            Path(folder), encoder=options.encoder, workers="1", lease_seconds="3600", **settings
        ) as server,
        Handful(server.url) as client,
    ):
        sources = [source for source in folders.scan(options.images, SHOTS) if source.label]
        client.get_or_create_project("bench")
        folders.upload(client, "bench", sources, lambda _: None)
        print(f"jobs train on {len(sources)} images", flush=True)
        with _training(server, client) as job:
            for number in range(rounds + 1):
                for name in ("idle", "training") if number % 2 else ("training", "idle"):
                    one = _round(server, bodies, job, stopped=name == "idle")
                    if number:  # the first warms up
                        measured[name].append(one)
                        print(
                            f"{name:<10}p50 {one.p50:>6.0f} ms  p99 {one.p99:>6.0f} ms"
                            f"{one.images_per_s:>8.1f} images/s  job on {one.cores:.2f} cores",
                            flush=True,
                        )
        for _ in range(1 if options.quick else CANCELS):
            path = _start(client)
            time.sleep(TRAINED_S)
            cancels.append(_cancel(client, path))
            print(f"a job that trained ended {cancels[-1]:.2f} s after its cancel", flush=True)
    return measured


def _start(client: Handful) -> str:
    """The path of a new job, once it trains."""
    job = client.post("/v1/projects/bench/jobs", JOB)
    path = f"/v1/projects/bench/jobs/{job['id']}"
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = client.get(path)
        if time.monotonic() > deadline or found["finished_at"]:
            raise RuntimeError(f"the job did not come to train: {found}")
        if found["state"] == "running":
            return path
        time.sleep(0.2)


def _cancel(client: Handful, path: str) -> float:
    """Seconds from the request until the job has ended."""
    started = time.perf_counter()
    client.post(f"{path}/cancel", None)
    while not client.get(path)["finished_at"]:
        time.sleep(POLL_S)
    return time.perf_counter() - started


@contextmanager
def _training(server: Server, client: Handful) -> Iterator[int]:
    """The process of a job that trains."""
    path = _start(client)
    assert server.pid is not None
    (worker,) = children(server.pid)
    (process,) = children(worker)
    try:
        yield process
    finally:
        os.kill(process, signal.SIGCONT)
        _cancel(client, path)


def _round(server: Server, bodies: Sequence[Request], job: int, *, stopped: bool) -> Round:
    os.kill(job, signal.SIGSTOP if stopped else signal.SIGCONT)
    time.sleep(SETTLE_S)
    worked, started = _processor_s(job), time.perf_counter()
    run = load(server.port, bodies, CLIENTS)
    cores = (_processor_s(job) - worked) / (time.perf_counter() - started)
    return Round(run.images_per_s, run.latencies_ms, cores)


def _processor_s(pid: int) -> float:
    """Processor time that a process has used; not a number where the system does not tell."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return float("nan")
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


def _report(
    options: argparse.Namespace,
    load: float,
    measured: dict[str, dict[str, list[Round]]],
    cancels: Sequence[float],
) -> None:
    rows: dict[str, dict[str, Any]] = {}
    print(f"\n{'median [lowest, highest]':<34}{'p50 ms':>22}{'p99 ms':>22}{'job on cores':>14}")
    for setting, by_name in measured.items():
        for name, rounds in by_name.items():
            row = {
                "p50_ms": _spread([one.p50 for one in rounds]),
                "p99_ms": _spread([one.p99 for one in rounds]),
                "images_per_s": _spread([one.images_per_s for one in rounds]),
                "job_cores": _spread([one.cores for one in rounds]),
            }
            rows[f"{setting}, {name}"] = row
            print(
                f"{f'{setting}, {name}':<34}{_shown(row['p50_ms']):>22}{_shown(row['p99_ms']):>22}"
                f"{row['job_cores']['median']:>14.2f}"
            )
        pairs = list(zip(by_name["training"], by_name["idle"], strict=True))
        ratios = {
            "p50_ratio": _spread([training.p50 / idle.p50 for training, idle in pairs]),
            "p99_ratio": _spread([training.p99 / idle.p99 for training, idle in pairs]),
        }
        rows[f"{setting}, training / idle"] = ratios
        print(
            f"{f'{setting}, training / idle':<34}{_shown(ratios['p50_ratio'], 2):>22}"
            f"{_shown(ratios['p99_ratio'], 2):>22}"
        )
    first = next(iter(measured))
    idle, training = (rows[f"{first}, {name}"]["p99_ms"]["median"] for name in ("idle", "training"))
    ratio = rows[f"{first}, training / idle"]["p99_ratio"]["median"]
    spare = (os.cpu_count() or 1) > 2  # with two cores, a request that uses both has none to spare
    headline = (
        f"p99 of classify, {CLIENTS} at a time: {idle:.0f} ms, {training:.0f} ms while a job "
        f"trains, {ratio:.2f} times" + ("" if spare else "; with two cores not judged")
    )
    cancelled = _spread(cancels)
    headline += f"; a cancel took {_shown(cancelled, 2)} s"
    finish(
        options,
        {"load_before": round(load, 2), "rows": rows, "cancel_s": cancelled},
        headline,
        kept=(not spare or ratio <= GOAL) and cancelled["highest"] <= CANCELLED_S,
    )


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "lowest": round(min(values), 3),
        "highest": round(max(values), 3),
    }


def _shown(spread: dict[str, float], digits: int = 0) -> str:
    low, high = (f"{spread[end]:.{digits}f}" for end in ("lowest", "highest"))
    return f"{spread['median']:.{digits}f} [{low}, {high}]"


if __name__ == "__main__":
    main()
