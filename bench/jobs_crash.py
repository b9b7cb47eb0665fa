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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np

from app.sql.tables import Embedding, Image
from bench.data import encoded
from bench.figures import progress
from bench.harness import DATABASE, Options, Result, option, run
from bench.processes import Command, Server, children, on_databases, wait_for, without_embedding
from handful.client import Handful
from handful.contract.jobs import FINAL, EventRead, JobRead

LEASE_S = 2.0
PATIENCE_S = 300.0  # for what must happen
POOL_IMAGES = 200  # that a promotion embeds
HEADWAY = 0.75  # of the blows come after a job has got on; the others at any time
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
            "job_attempts": "1000000",
            "job_backoff_seconds": "0",  # else an attempt is killed a minute
        }
        self.folder, self.database = folder, database
        self.server = Server(folder, workers="1", **settings)
        self.workers = [Command("worker", data=folder, **settings) for _ in range(2)]

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

    def expect(self, promise_met: bool, job: JobRead, complaint: str) -> None:
        """Note a promise that was broken."""
        if not promise_met:
            self.broken.append(f"{job.kind} {job.id}: {complaint}")
            print(f"BROKEN: {self.broken[-1]}", flush=True)


class Stream:
    """Jobs of a project, one after the other.

    Args:
        trainings: options by name; they take turns.
    """

    def __init__(self, client: Handful, project: str, trainings: dict[str, Json]) -> None:
        self.client = client
        self.project = project
        self.trainings = trainings
        self.undisturbed: dict[str, Outcome] = {}  # by training
        self.training = ""  # the last one
        self._names = itertools.cycle(trainings)

    def train(self) -> None:
        """Start the next training."""
        self.training = next(self._names)
        options = self.trainings[self.training]
        self._follow(self.client.start_job(self.project, "finetune", **options))

    def promote(self, version: UUID) -> None:
        """Start to promote a version."""
        self._follow(self.client.promote(self.project, version).job)

    def ended(self) -> JobRead | None:
        """The last job, once it has ended."""
        job = self.client.job(self.project, self._job)
        return job if job.state in FINAL else None

    def end(self) -> JobRead:
        """The same, when it has ended."""
        return wait_for(self.ended, PATIENCE_S)

    def events(self, after: int = 0) -> list[EventRead]:
        """Events of the last job, after one of them."""
        events: list[EventRead] = []
        while page := self.client.job_events(
            self.project, self._job, after=events[-1].number if events else after, limit=1000
        ).items:
            events += page
        return events

    def has_progressed(self) -> bool:
        """Whether the last job has reported metrics since this was last asked."""
        events = self.events(self._events)
        self._events += len(events)
        return any(event.kind == "metrics" for event in events)

    def outcome(self, version: UUID) -> Outcome:
        """What came of the last job."""
        metrics = [event.data.model_dump() for event in self.events() if event.kind == "metrics"]
        return Outcome(
            [(m["run"], m["epoch"], m["loss"]) for m in metrics if m["stage"] == "training"],
            hashlib.sha256(self.client.weights(self.project, version)).hexdigest(),
        )

    def versions(self) -> list[UUID]:
        """The encoder versions that the last job has made."""
        versions = self.client.all(self.client.versions, self.project)
        return [version.id for version in versions if version.job == self._job]

    def _follow(self, job: JobRead | None) -> None:
        assert job, "a version was promoted at once, though it had images to embed"
        self._job, self._events = job.id, 0  # how many of its events were read


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
    service, tally = Service(folder, database), Tally()
    blows = _blows(kills, generator)
    with ExitStack() as running:
        for command in (service.server, *service.workers):
            running.enter_context(command)
        streams = _streams(running.enter_context(Handful(service.server.url)), epochs)
        with ThreadPoolExecutor() as threads:
            list(threads.map(_prepare, streams))
        print("all trainings have run once, undisturbed", flush=True)
        for victim, how in progress(blows, "kills", every=10):
            time.sleep(generator.uniform(0.2, 3.0))
            _advance(service, streams, tally)
            if generator.random() < HEADWAY:
                wait_for(partial(_headway, service, streams, tally), PATIENCE_S)
                time.sleep(generator.uniform(0.0, 1.0))
            _hit(service, victim, how, generator)
        for stream in streams:
            _judge(service, stream, stream.end(), tally)
    return {
        "kills": kills,
        "blows": dict(Counter(f"{how.name} of the {victim}" for victim, how in blows)),
        "jobs": dict(tally.jobs),
        "interruptions": dict(tally.interruptions),
        "most_interruptions_of_a_job": tally.most,
        "broken": tally.broken,
    }


def _streams(client: Handful, epochs: int) -> list[Stream]:
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
        Stream(client, "tried", {name: once | options for name, options in trainings.items()}),
        Stream(client, "served", {"several": once | several}),
    ]


def _blows(count: int, generator: random.Random) -> list[tuple[str, signal.Signals]]:
    """Each kind of blow once, then as often as its share says, in random order."""
    blows = [*BLOWS, *generator.choices(list(BLOWS), list(BLOWS.values()), k=count)][:count]
    generator.shuffle(blows)
    return blows


def _prepare(stream: Stream) -> None:
    """Fill the project, and run each of its trainings once to know what must come out."""
    stream.client.create_project(stream.project)
    for way in ("level", "upright"):
        files = [_stripes(way, seed) for seed in range(16)]
        stream.client.add_support(stream.project, way, files)
    pool = [_stripes("level", 1000 + number) for number in range(POOL_IMAGES)]
    stream.client.add_images(stream.project, pool)
    for _ in stream.trainings:
        stream.train()
        job = stream.end()
        if job.state != "succeeded" or job.attempt != 1:
            raise RuntimeError(f"a job that nobody disturbed did not succeed at once: {job}")
        stream.undisturbed[stream.training] = stream.outcome(_result(job)["version"])
    stream.train()


def _advance(service: Service, streams: Sequence[Stream], tally: Tally) -> None:
    """Judge the jobs that have ended, and start the next ones."""
    for stream in streams:
        job = stream.ended()
        if job is None:
            continue
        _judge(service, stream, job, tally)
        if job.kind == "finetune" and job.result and not _result(job)["promoted"]:
            stream.promote(_result(job)["version"])
        else:
            stream.train()


def _headway(service: Service, streams: Sequence[Stream], tally: Tally) -> bool:
    """Whether a job has got on since this was last true."""
    _advance(service, streams, tally)
    progressed = [stream.has_progressed() for stream in streams]  # all are asked
    return any(progressed)


def _result(job: JobRead) -> Json:
    """With the fields of the kind of job."""
    return job.result.model_dump() if job.result else {}


def _hit(service: Service, victim: str, how: signal.Signals, generator: random.Random) -> None:
    pids = wait_for(lambda: _victims(service, victim, generator), PATIENCE_S)
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


def _judge(service: Service, stream: Stream, job: JobRead, tally: Tally) -> None:
    """Compare the last job, which has ended, with what was promised."""

    def expect(promise_met: bool, complaint: str) -> None:
        tally.expect(promise_met, job, complaint)

    events = stream.events()
    states = [event.data for event in events if event.kind == "state"]
    reasons = [str(state.reason) for state in states if state.state == "interrupted"]
    tally.jobs[f"{job.kind} {job.state}"] += 1
    tally.interruptions.update(re.sub(r"\d+", "N", reason) for reason in reasons)
    tally.most = max(tally.most, len(reasons))
    expect(job.state == "succeeded", f"{job.state}: {job.error}")
    entered = [state.state for state in states if state.state in FINAL]
    expect(entered == ["succeeded"], f"entered the final states {entered}")
    last = events[-1]
    expect(last.kind == "state" and last.data.state == job.state, "has events after its end")
    numbers = [event.number for event in events]
    expect(numbers == list(range(1, len(events) + 1)), "has events with gaps or twice")
    versions = stream.versions()
    promised = int(job.kind == "finetune" and job.state == "succeeded")
    expect(len(versions) == promised, f"made {len(versions)} versions")
    if job.state != "succeeded":
        return
    if job.kind == "finetune":
        undisturbed = stream.undisturbed[stream.training]
        outcome = stream.outcome(versions[0])
        times = Counter((run, epoch) for run, epoch, _ in outcome.curve)
        twice = [position for position, count in times.items() if count > 1]
        expect(not twice, f"told (run, epoch) {twice} more than once")
        expect(list(dict.fromkeys(outcome.curve)) == undisturbed.curve, "its losses differ")
        expect(outcome.weights == undisturbed.weights, "its weights differ")
    if _result(job)["promoted"]:
        project, version = stream.client.project(stream.project), UUID(_result(job)["version"])
        expect(project.encoder.id == version, "its version does not serve the project")
        theirs = (Embedding.image_id == Image.id) & (Embedding.encoder_id == version)
        in_project = Image.project_id == project.id
        bare = without_embedding(service.folder, service.database, theirs, in_project)
        expect(bare == 0, f"{bare} images have no embedding")


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
