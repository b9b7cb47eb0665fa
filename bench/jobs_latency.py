"""How long classifying takes while a job trains beside the server, and while none does.

Four clients send photos, a raw body each, to `handful serve` with its worker. Rounds with and
without training take turns; in those without, the job's process is stopped (SIGSTOP), so that it
has its memory but no processor, and a round can follow the other at once. Then jobs are cancelled
while they train, and it is measured how long it takes until they have ended.
"""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

from app.cli.benchmark import PROJECT, Request, load, photos
from bench.figures import in_words, percentiles, spread, spreads
from bench.harness import ENCODER, Options, Result, option, run
from bench.processes import Server, children, cores, new_server, single, wait_for
from handful.client import Handful
from handful.folders import scan, upload

CLIENTS = 4
GOAL = 1.5  # p99 while training, as a factor of p99 without
SHOTS = 20  # of each label, at most
PATIENCE_S = 300.0  # until a job trains, or has ended
SETTLE_S = 0.5  # before a round
CANCELS = 5  # of jobs that train
TRAINED_S = 3.0  # before its cancel
CANCELLED_S = 1.0  # from the request to the end, at most
# More epochs than there is time for; all layers learn, which is the most that a job computes.
JOB = {"methods": [{"name": "full"}], "recipe": {"epochs": 100_000}, "promote": "never"}


def measure(options: Options) -> Result:
    """Let rounds take turns, then cancel jobs."""
    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(f"the load average is {busy:.1f} already: figures of a busy machine are worth little")
    spare = (os.cpu_count() or 1) > 2  # with two cores, a request that uses both has none to spare
    rounds, cancels = _measure(options)
    rows = {f"as it comes, {name}": spreads(by_name) for name, by_name in rounds.items()}
    ratios = spreads(
        [
            {f"{p}_ratio": training[f"{p}_ms"] / idle[f"{p}_ms"] for p in ("p50", "p99")}
            for training, idle in zip(rounds["training"], rounds["idle"], strict=True)
        ]
    )
    rows["as it comes, training / idle"] = ratios
    idle, training = (rows[f"as it comes, {n}"]["p99_ms"]["median"] for n in ("idle", "training"))
    ratio, cancelled = ratios["p99_ratio"]["median"], spread(cancels)
    headline = (
        f"p99 of classify, {CLIENTS} at a time: {idle:.0f} ms, {training:.0f} ms while a job "
        f"trains, {ratio:.2f} times{'' if spare else '; with two cores not judged'}; "
        f"a cancel took {in_words(cancelled)} s"
    )
    goal_met = (not spare or ratio <= GOAL) and cancelled["highest"] <= CANCELLED_S
    figures = {"load_before": round(busy, 2), "rows": rows, "cancel_s": cancelled}
    return Result(figures, headline, goal_met)


def _measure(options: Options) -> tuple[dict[str, list[dict[str, float]]], list[float]]:
    """Rounds by what the job does, and seconds until jobs had ended."""
    rounds, requests = (3, 100) if options.quick else (8, 400)
    bodies = [single(photo) for photo in photos(options.images, requests)]
    bodies = (bodies * (requests // len(bodies) + 1))[:requests]
    # A job that is stopped for a round must not be taken for lost.
    settings = {"encoder": options.encoder, "workers": "1", "lease_seconds": "3600"}
    measured: dict[str, list[dict[str, float]]] = {"idle": [], "training": []}
    with new_server(**settings) as server, Handful(server.url) as client, ExitStack() as stopped:
        sources = [source for source in scan(options.images, SHOTS) if source.label]
        client.create_project(PROJECT)
        upload(client, PROJECT, sources, lambda _: None)
        print(f"jobs train on {len(sources)} images", flush=True)
        job = _start(client)
        (worker,) = children(server.pid)
        (process,) = children(worker)
        stopped.callback(os.kill, process, signal.SIGCONT)
        for number in range(rounds + 1):
            for name in ("idle", "training") if number % 2 else ("training", "idle"):
                result = _round(server, bodies, process, stopped=name == "idle")
                if number:  # the first warms up
                    measured[name].append(result)
                    print(f"{name}: {in_words(result)}", flush=True)
        stopped.close()
        _cancel(client, job)
        cancels = []
        for _ in range(1 if options.quick else CANCELS):
            job = _start(client)
            time.sleep(TRAINED_S)
            cancels.append(_cancel(client, job))
            print(f"a job that trained ended {cancels[-1]:.2f} s after its cancel", flush=True)
    return measured, cancels


def _start(client: Handful) -> UUID:
    """A new job, once it trains."""
    job = client.start_job(PROJECT, "finetune", **JOB).id
    wait_for(lambda: client.job(PROJECT, job).state == "running", PATIENCE_S)
    return job


def _cancel(client: Handful, job: UUID) -> float:
    """Seconds from the request until the job has ended."""
    started = time.perf_counter()
    client.cancel_job(PROJECT, job)
    wait_for(lambda: client.job(PROJECT, job).finished_at, PATIENCE_S, pause_s=0.02)
    return time.perf_counter() - started


def _round(
    server: Server, bodies: Sequence[Request], job: int, *, stopped: bool
) -> dict[str, float]:
    """Figures of one measurement."""
    os.kill(job, signal.SIGSTOP if stopped else signal.SIGCONT)
    time.sleep(SETTLE_S)
    with cores(job=job) as busy:
        run = load(server.port, bodies, CLIENTS)
    waits = percentiles(run.latencies_ms, 50, 99, name="p{}_ms")
    return {**waits, "images_per_s": run.images_per_s, "job_cores": busy["job"]}


if __name__ == "__main__":
    images = option("--images", type=Path, required=True, help="folder of class folders")
    run(measure, images, ENCODER)
