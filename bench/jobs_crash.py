"""SIGKILL and SIGSTOP at random points: every job ends once, as if nothing had happened.

Three workers share a database, and two jobs are in work at any time. The process of a job, of a
worker or of the server is killed; or it is stopped for longer than a lease, so that another worker
takes the job, and goes on then. Each job must end in one final state with exactly one encoder
version, its events numbered without gaps and every epoch told once, and its losses and weights must
equal, bit for bit, those of a job with the same options that nothing disturbed.
"""

import hashlib
import itertools
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import httpx
import numpy as np

from app.sql.tables import Embedding, Image
from bench.data import encoded
from bench.harness import DATABASE, Options, Result, option, run
from bench.processes import Command, Server, children, on_databases, without_embedding

LEASE_S = 2.0
ATTEMPTS = 2  # of a job that shall fail
PATIENCE_S = 300.0  # for what must happen
POOL_IMAGES = 200  # that a promotion embeds
HEADWAY = 0.75  # of the blows come after a job has got on; the others at any time
FINAL = ("succeeded", "failed", "cancelled")
KILL, STOP = signal.SIGKILL, signal.SIGSTOP
BLOWS = {  # what is hit and how, so many times of 20
    ("job", KILL): 6,
    ("job", STOP): 3,
    ("worker", KILL): 4,
    ("worker", STOP): 2,
    ("worker and job", STOP): 2,
    ("server", KILL): 2,
    ("server", STOP): 1,
}
Json = dict[str, Any]
Value = TypeVar("Value")


class Outcome(NamedTuple):
    """What a training must give again, whatever happens to it."""

    curve: list[tuple[int, int, float]]  # run, epoch and loss, in the order of the events
    weights: str  # SHA-256


class Service:
    """A server with a worker beside it, and two more workers; all on one database."""

    def __init__(self, folder: Path, database: str) -> None:
        settings = {
            "database_url": database,
            "encoder": "conv4:8",
            "device": "cpu",
            "training_threads": "1",
            "decode_threads": "2",
            "lease_seconds": str(LEASE_S),
            "checkpoint_seconds": "0",
        }
        patient = settings | {"job_attempts": "1000000"}
        self.folder, self.database = folder, database
        self.server = Server(folder, workers="1", **patient)
        self.workers = [Command("worker", data=folder, **patient) for _ in range(2)]
        self.strict = Server(folder, workers="1", job_attempts=str(ATTEMPTS), **settings)

    def busy_workers(self) -> list[tuple[int, list[int]]]:
        """The workers that have jobs, and the processes of these."""
        workers = [worker.pid for worker in self.workers if worker.pid]
        workers += children(self.server.pid) if self.server.pid else []
        jobs = [(worker, children(worker)) for worker in workers]
        return [(worker, pids) for worker, pids in jobs if pids]

    def kill(self, pid: int) -> None:
        """Kill a process, and start it again where nobody else does."""
        for command in (self.server, *self.workers):
            if command.pid == pid:
                command.stop(KILL)
                return command.start()
        return _send(pid, KILL)


@dataclass
class Tally:
    """What happened to the jobs, and what should not have."""

    jobs: Counter[str] = field(default_factory=Counter)  # that ended, by kind and state
    interruptions: Counter[str] = field(default_factory=Counter)  # by reason
    most: int = 0  # interruptions of one job
    broken: list[str] = field(default_factory=list)

    def expect(self, promise_met: bool, job: Json, complaint: str) -> None:
        """Note a promise that was broken."""
        if not promise_met:
            self.broken.append(f"{job['kind']} {job['id']}: {complaint}")
            print(f"BROKEN: {self.broken[-1]}", flush=True)


class Stream:
    """Jobs of a project, one after the other.

    Args:
        trainings: options by name; they take turns.
    """

    def __init__(self, project: str, trainings: dict[str, Any]) -> None:
        self.project = project
        self.path = f"/v1/projects/{project}"
        self.trainings = trainings
        self.undisturbed: dict[str, Outcome] = {}  # by training
        self.training = ""  # the last one
        self.location = ""  # of the last job
        self._names = itertools.cycle(trainings)
        self._events = 0  # of the last job that were read

    def train(self, client: httpx.Client) -> None:
        """Start the next training."""
        self.training = next(self._names)
        body = {"kind": "finetune", "options": self.trainings[self.training]}
        self._follow(client.post(f"{self.path}/jobs", json=body))

    def promote(self, client: httpx.Client, version: str) -> None:
        """Start to promote a version."""
        self._follow(client.post(f"{self.path}/encoders/{version}/promote"))

    def read(self, client: httpx.Client) -> Json:
        """The last job."""
        job: Json = client.get(self.location).raise_for_status().json()
        return job

    def ended(self, client: httpx.Client) -> Json | None:
        """The last job, once it has ended."""
        job = self.read(client)
        return job if job["state"] in FINAL else None

    def events(self, client: httpx.Client, after: int = 0) -> list[dict[str, Any]]:
        """Events of the last job, after one of them."""
        events: list[dict[str, Any]] = []
        while True:
            query = {"limit": 1000, "after": events[-1]["number"] if events else after}
            page = client.get(f"{self.location}/events", params=query).raise_for_status().json()
            events += page["items"]
            if len(page["items"]) < 1000:
                return events

    def has_progressed(self, client: httpx.Client) -> bool:
        """Whether the last job has reported metrics since this was last asked."""
        events = self.events(client, self._events)
        self._events = events[-1]["number"] if events else self._events
        return any(event["kind"] == "metrics" for event in events)

    def outcome(self, client: httpx.Client, version: str) -> Outcome:
        """What came of the last job."""
        metrics = [event["data"] for event in self.events(client) if event["kind"] == "metrics"]
        weights = client.get(f"{self.path}/encoders/{version}/weights").raise_for_status()
        return Outcome(
            [(m["run"], m["epoch"], m["loss"]) for m in metrics if m["stage"] == "training"],
            hashlib.sha256(weights.content).hexdigest(),
        )

    def versions(self, client: httpx.Client) -> list[str]:
        """The encoder versions that the last job has made."""
        query = {"limit": 1000}
        page = client.get(f"{self.path}/encoders", params=query).raise_for_status().json()
        job = self.location.rpartition("/")[2]
        return [version["id"] for version in page["items"] if version["job"] == job]

    def _follow(self, answer: httpx.Response) -> None:
        self.location, self._events = answer.raise_for_status().headers["Location"], 0


def measure(options: Options) -> Result:
    """Disturb jobs on each database."""
    epochs = 4 if options.quick else 8
    figures = on_databases(options.database, partial(_crash, options.kills, epochs))
    rows = list(figures.values())
    jobs = sum(sum(row["jobs"].values()) for row in rows)
    interruptions = sum(sum(row["interruptions"].values()) for row in rows)
    broken = sum(len(row["broken"]) for row in rows)
    headline = (
        f"{sum(row['kills'] for row in rows)} kills and stops on {' and '.join(figures)}: {jobs} "
        f"jobs were interrupted {interruptions} times and ended once each, {broken} promises broken"
    )
    return Result({"databases": figures}, headline, broken == 0)


def _crash(kills: int, epochs: int, folder: Path, database: str) -> dict[str, Any]:
    generator = random.Random(0)
    service, tally, streams = Service(folder, database), Tally(), _streams(epochs)
    blows = _blows(kills, generator)
    with ExitStack() as running:
        for command in (service.server, *service.workers):
            running.enter_context(command)
        with service.server.client() as client, ThreadPoolExecutor() as threads:
            list(threads.map(lambda stream: _prepare(client, stream), streams))
        print("all trainings have run once, undisturbed", flush=True)
        started = time.monotonic()
        for number, (victim, how) in enumerate(blows, 1):
            time.sleep(generator.uniform(0.2, 3.0))
            _advance(service, streams, tally)
            if generator.random() < HEADWAY:
                _wait(partial(_headway, service, streams, tally))
                time.sleep(generator.uniform(0.0, 1.0))
            _hit(service, victim, how, generator)
            if number % 10 == 0 or number == kills:
                ended = sum(tally.jobs.values())
                print(
                    f"{number} kills in {time.monotonic() - started:.0f} s, {ended} jobs ended, "
                    f"{len(tally.broken)} promises broken",
                    flush=True,
                )
        with service.server.client() as client:
            for stream in streams:
                _judge(client, service, stream, _end(client, stream), tally)
    with service.strict:
        _exhaust(service, streams[0], tally)
    return {
        "kills": kills,
        "blows": dict(Counter(f"{how.name} of the {victim}" for victim, how in blows)),
        "jobs": dict(tally.jobs),
        "interruptions": dict(tally.interruptions),
        "most_interruptions_of_a_job": tally.most,
        "broken": tally.broken,
    }


def _streams(epochs: int) -> list[Stream]:
    full, gradual, last = (
        {"name": name} for name in ("full", "discriminative", "feature_extraction")
    )
    recipe: Json = {"epochs": epochs, "batch_size": 8, "rate": 3e-3}
    once = {"folds": 2, "promote": "never", "recipe": recipe}
    trainings: dict[str, Json] = {
        "full": {"methods": [full]},
        "discriminative": {"methods": [gradual], "augmentation": [{"name": "mixup"}]},
        "feature_extraction": {
            "methods": [last],
            "recipe": recipe | {"epochs": 4 * epochs, "ema_decay": 0.9},
        },
    }
    short = recipe | {"epochs": epochs // 2}
    several = {"methods": [full, gradual, last], "recipe": short, "promote": "always"}
    return [
        Stream("tried", {name: once | options for name, options in trainings.items()}),
        Stream("served", {"several": once | several}),
    ]


def _blows(count: int, generator: random.Random) -> list[tuple[str, signal.Signals]]:
    """Each kind of blow once, then as often as its share says, in random order."""
    blows = list(BLOWS)
    while len(blows) < count:
        blows += [blow for blow, share in BLOWS.items() for _ in range(share)]
    blows = blows[:count]
    generator.shuffle(blows)
    return blows


def _prepare(client: httpx.Client, stream: Stream) -> None:
    """Fill the project, and run each of its trainings once to know what must come out."""
    client.post("/v1/projects", json={"name": stream.project}).raise_for_status()
    for way in ("level", "upright"):
        files = [("files", _stripes(way, seed)) for seed in range(16)]
        client.post(f"{stream.path}/labels/{way}/support", files=files).raise_for_status()
    for first in range(0, POOL_IMAGES, 100):
        files = [("files", _stripes("level", 1000 + first + n)) for n in range(100)]
        client.post(f"{stream.path}/pool", files=files).raise_for_status()
    for _ in stream.trainings:
        stream.train(client)
        job = _end(client, stream)
        if job["state"] != "succeeded" or job["attempt"] != 1:
            raise RuntimeError(f"a job that nobody disturbed did not succeed at once: {job}")
        stream.undisturbed[stream.training] = stream.outcome(client, job["result"]["version"])
    stream.train(client)


def _advance(service: Service, streams: Sequence[Stream], tally: Tally) -> None:
    """Judge the jobs that have ended, and start the next ones."""
    with service.server.client() as client:
        for stream in streams:
            job = stream.ended(client)
            if job is None:
                continue
            _judge(client, service, stream, job, tally)
            if job["kind"] == "finetune" and job["result"] and not job["result"]["promoted"]:
                stream.promote(client, job["result"]["version"])
            else:
                stream.train(client)


def _headway(service: Service, streams: Sequence[Stream], tally: Tally) -> bool:
    """Whether a job has got on since this was last true."""
    _advance(service, streams, tally)
    with service.server.client() as client:
        progressed = [stream.has_progressed(client) for stream in streams]  # all are asked
    return any(progressed)


def _hit(service: Service, victim: str, how: signal.Signals, generator: random.Random) -> None:
    pids = _wait(lambda: _victims(service, victim, generator))
    if how == KILL:
        service.kill(*pids)
        return
    try:
        for pid in pids:
            _send(pid, STOP)
        time.sleep(LEASE_S + generator.uniform(0.3, 2.0))
    finally:
        generator.shuffle(pids)
        for pid in pids:
            _send(pid, signal.SIGCONT)


def _victims(service: Service, victim: str, generator: random.Random) -> list[int]:
    """Processes to hit together; none while no job has one."""
    if victim == "server":
        return [service.server.pid] if service.server.pid else []
    busy = service.busy_workers()
    if not busy:
        return []
    worker, jobs = generator.choice(busy)
    return {"job": jobs, "worker": [worker], "worker and job": [worker, *jobs]}[victim]


def _exhaust(service: Service, stream: Stream, tally: Tally) -> None:
    """Kill a job as often as it may be killed, and once more; then try it again."""
    with service.strict.client() as client:
        while not _is_hit_each_time(client, service, stream):
            _judge(client, service, stream, _end(client, stream), tally)
        job = _end(client, stream)
        error = str(job["error"])
        clear = f"interrupted {ATTEMPTS} times" in error and "SIGKILL" in error
        tally.expect(job["state"] == "failed" and clear, job, f"should fail, but said {error!r}")
        tally.expect(not stream.versions(client), job, "failed, but has made a version")
        client.post(f"{stream.location}/retry").raise_for_status()
        job = _end(client, stream)
        _judge(client, service, stream, job, tally, ends=("failed", "succeeded"))
        print(f"killed {ATTEMPTS} times with as many attempts: {error}", flush=True)


def _is_hit_each_time(client: httpx.Client, service: Service, stream: Stream) -> bool:
    """Start a job and kill each attempt; whether none ended before its blow."""
    stream.train(client)
    for attempt in range(1, ATTEMPTS + 1):
        _wait(partial(_computes, client, stream, attempt))
        workers = children(service.strict.pid or 0)
        victims = [pid for worker in workers for pid in children(worker)]
        for pid in victims:
            service.kill(pid)
        if not victims or stream.read(client)["state"] == "succeeded":
            return False
    return True


def _computes(client: httpx.Client, stream: Stream, attempt: int) -> bool:
    job = stream.read(client)
    return job["state"] in FINAL or (job["state"], job["attempt"]) == ("running", attempt)


def _judge(
    client: httpx.Client,
    service: Service,
    stream: Stream,
    job: Json,
    tally: Tally,
    ends: Sequence[str] = ("succeeded",),
) -> None:
    """Compare the last job, which has ended, with what was promised.

    Args:
        ends: the final states that it must have entered, one after the other.
    """

    def expect(promise_met: bool, complaint: str) -> None:
        tally.expect(promise_met, job, complaint)

    events = stream.events(client)
    states = [event["data"] for event in events if event["kind"] == "state"]
    reasons = [state["reason"] for state in states if state["state"] == "interrupted"]
    tally.jobs[f"{job['kind']} {job['state']}"] += 1
    tally.interruptions.update(re.sub(r"\d+", "N", reason) for reason in reasons)
    tally.most = max(tally.most, len(reasons))
    expect(job["state"] == ends[-1], f"{job['state']}: {job['error']}")
    entered = [state["state"] for state in states if state["state"] in FINAL]
    expect(entered == list(ends), f"entered the final states {entered}")
    expect(events[-1]["data"].get("state") == job["state"], "has events after its end")
    numbers = [event["number"] for event in events]
    expect(numbers == list(range(1, len(events) + 1)), "has events with gaps or twice")
    versions = stream.versions(client)
    promised = int(job["kind"] == "finetune" and job["state"] == "succeeded")
    expect(len(versions) == promised, f"made {len(versions)} versions")
    if job["state"] != "succeeded":
        return
    if job["kind"] == "finetune":
        undisturbed = stream.undisturbed[stream.training]
        outcome = stream.outcome(client, versions[0])
        times = Counter((run, epoch) for run, epoch, _ in outcome.curve)
        twice = [position for position, count in times.items() if count > 1]
        expect(not twice, f"told (run, epoch) {twice} more than once")
        expect(list(dict.fromkeys(outcome.curve)) == undisturbed.curve, "its losses differ")
        expect(outcome.weights == undisturbed.weights, "its weights differ")
    if job["result"]["promoted"]:
        project = client.get(stream.path).raise_for_status().json()
        version = job["result"]["version"]
        expect(project["encoder"]["id"] == version, "its version does not serve the project")
        theirs = (Embedding.image_id == Image.id) & (Embedding.encoder_id == UUID(version))
        in_project = Image.project_id == UUID(project["id"])
        bare = without_embedding(service.folder, service.database, theirs, in_project)
        expect(bare == 0, f"{bare} images have no embedding")


def _end(client: httpx.Client, stream: Stream) -> Json:
    return _wait(lambda: stream.ended(client))


def _wait(attempt: Callable[[], Value | None]) -> Value:
    """What comes of trying until it is something."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := attempt()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing happened for {PATIENCE_S:.0f} s")
        time.sleep(0.1)
    return value


def _send(pid: int, how: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, how)


def _stripes(way: str, seed: int) -> bytes:
    """A picture of noise with faint stripes, upright or level."""
    noise = np.random.default_rng([seed, way == "upright"]).random((84, 84, 3))
    wave = 0.1 * np.sin(np.arange(84) * 1.5)
    pixels = noise + wave.reshape((1, -1, 1) if way == "upright" else (-1, 1, 1))
    return encoded(pixels * 255, "PNG")


if __name__ == "__main__":
    kills = option("--kills", 100, quick=len(BLOWS), help="on each database, stops included")
    run(measure, kills, DATABASE)
