"""SIGKILL and SIGSTOP at random points: every job ends once, as if nothing had happened.

Three workers share a database, and two jobs are in work at any time. The process of a job, of a
worker or of the server is killed; or it is stopped for longer than a lease, so that another worker
takes the job, and goes on then. Each job must end in one final state with exactly one encoder
version or learned head, its events numbered without gaps and every epoch told once, and its losses
and weights must equal, bit for bit, those of a job with the same options that nothing disturbed.
"""

import hashlib
import itertools
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from bench.data import noise
from bench.figures import progress
from bench.harness import BUCKET, DATABASE, SERVERS, Options, Result, option, run
from bench.processes import (
    Command,
    Server,
    children,
    new_bucket,
    on_databases,
    wait_for,
    without_embedding,
)
from handful.client import Handful
from handful.contract.jobs import FINAL, EventRead, JobRead

LEASE_S = 2.0
PATIENCE_S = 300.0  # for what must happen
LABELS = ("first", "second", "third", "fourth")
SHOTS, SIDE = 8, 84  # of each label; pixels
POOL_IMAGES = 200  # that a promotion embeds
MOST_EVENTS = 1000  # of a job, which has some dozens
HEADWAY = 0.75  # of the blows come after a job has got on; the others at any time
TRAINING = ("finetune", "metatrain", "generate")  # kinds of jobs
STAGES = ("training", "meta-training", "generation")  # of theirs, that tell losses
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


class Training(NamedTuple):
    """A job that trains."""

    kind: str
    options: Json


class Outcome(NamedTuple):
    """What a training must give again, whatever happens to it."""

    curve: list[tuple[int, int, float]]  # run, epoch and loss, in the order of the events
    weights: str  # SHA-256


class Ending(NamedTuple):
    """What became of a job, and what should not have happened to it."""

    name: str  # its kind and final state
    interruptions: list[str]  # their reasons
    broken: list[str]  # promises


class Service:
    """Servers with a worker beside each, and two more workers; all on one database."""

    def __init__(self, folder: Path, database: str, count: int, bucket: dict[str, str]) -> None:
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
            **bucket,
        }
        self.without_embedding = partial(without_embedding, folder, database)
        servers = count if database else 1
        self.servers = [Server(folder, workers="1", **settings) for _ in range(servers)]
        self.workers = [Command("worker", data=folder, **settings) for _ in range(2)]

    def hit(self, victim: str, how: signal.Signals, generator: random.Random) -> None:
        """Kill processes, those again started that nobody else starts; or stop them for a while."""
        pids = wait_for(lambda: self._victims(victim, generator), PATIENCE_S)
        try:
            for pid in pids:
                _send(pid, how)
            if how == STOP:
                time.sleep(LEASE_S + generator.uniform(0.3, 2.0))
        finally:
            generator.shuffle(pids)
            for pid in pids:
                _send(pid, signal.SIGCONT)
        for command in (*self.servers, *self.workers):
            if how == KILL and command.pid in pids:
                command.stop(KILL)
                command.start()

    def _victims(self, victim: str, generator: random.Random) -> list[int]:
        """Processes to hit together; none while no job has one."""
        servers, workers = (
            [command.pid for command in commands if command.pid]
            for commands in (self.servers, self.workers)
        )
        if victim == "server":
            return [generator.choice(servers)]
        beside = [worker for server in servers for worker in children(server)]
        processes = {worker: children(worker) for worker in [*workers, *beside]}
        busy = [(worker, jobs) for worker, jobs in processes.items() if jobs]
        if not busy:
            return []
        worker, jobs = generator.choice(busy)
        return {"job": jobs, "worker": [worker], "worker and job": [worker, *jobs]}[victim]


class Stream:
    """Jobs of a project, one after the other.

    Args:
        trainings: by name; they take turns.
    """

    def __init__(self, client: Handful, project: str, trainings: dict[str, Training]) -> None:
        self.client = client
        self.project = project
        self.trainings = trainings
        self.undisturbed: dict[str, Outcome] = {}  # by training
        self.training = ""  # the last one
        self._turns = itertools.cycle(trainings)

    def start(self, last: JobRead | None = None) -> None:
        """Promote what the last job made and did not promote itself, or start a training."""
        version = _result(last).get("version") if last and last.kind in TRAINING else None
        if last and version and not _result(last)["promoted"]:
            job = self.client.promote(self.project, version).job
            assert job, "a version was promoted at once, though it had images to embed"
        else:
            self.training = next(self._turns)
            kind, options = self.trainings[self.training]
            job = self.client.start_job(self.project, kind, **options)
        self._job, self._events = job.id, 0  # how many of its events were read

    def ended(self) -> JobRead | None:
        """The last job, once it has ended."""
        job = self.client.job(self.project, self._job)
        return job if job.state in FINAL else None

    def events(self, after: int = 0) -> list[EventRead]:
        """Events of the last job, after one of them."""
        return self.client.job_events(self.project, self._job, after=after, limit=MOST_EVENTS).items

    def has_progressed(self) -> bool:
        """Whether the last job has reported metrics since this was last asked."""
        events = self.events(self._events)
        self._events += len(events)
        return any(event.kind == "metrics" for event in events)

    def outcome(self, job: JobRead) -> Outcome:
        """What came of the last job, which made a version or a head."""
        result = _result(job)
        weights = (
            self.client.head_weights(self.project, result["head"])
            if "head" in result
            else self.client.weights(self.project, result["version"])
        )
        metrics = [event.data.model_dump() for event in self.events() if event.kind == "metrics"]
        return Outcome(
            [(m.get("run", 1), m["epoch"], m["loss"]) for m in metrics if m["stage"] in STAGES],
            hashlib.sha256(weights).hexdigest(),
        )

    def products(self) -> list[UUID]:
        """The encoder versions and heads that the last job has made."""
        versions = self.client.all(self.client.versions, self.project)
        heads = self.client.all(self.client.learned_heads, self.project)
        products = [version.id for version in versions if version.job == self._job]
        return products + [head.id for head in heads if head.job == self._job]


def measure(options: Options) -> Result:
    """Disturb jobs on each database."""
    epochs = 4 if options.quick else 8
    with new_bucket(options.bucket) as bucket:
        work = partial(_crash, options.kills, epochs, options.servers, bucket)
        figures = on_databases(options.database, work)
    rows = list(figures.values())
    jobs = sum(sum(row["jobs"].values()) for row in rows)
    interruptions = sum(sum(row["interruptions"].values()) for row in rows)
    broken = sum(len(row["broken"]) for row in rows)
    headline = (
        f"{sum(row['kills'] for row in rows)} kills and stops on {' and '.join(figures)}: {jobs} "
        f"jobs were interrupted {interruptions} times and ended once each, {broken} promises broken"
    )
    return Result({"databases": figures}, headline, broken == 0)


def _crash(
    kills: int, epochs: int, servers: int, bucket: dict[str, str], folder: Path, database: str
) -> dict[str, Any]:
    generator = random.Random(0)
    service = Service(folder, database, servers, bucket)
    endings: list[Ending] = []
    blows = _blows(kills, generator)
    with ExitStack() as running:
        for command in (*service.servers, *service.workers):
            running.enter_context(command)
        clients = [running.enter_context(Handful(server.url)) for server in service.servers]
        streams = _streams(clients, epochs)
        for stream in streams:
            _prepare(stream)
        print("all trainings have run once, undisturbed", flush=True)
        for victim, how in progress(blows, "kills", every=10):
            time.sleep(generator.uniform(0.2, 3.0))
            endings += _advance(service, streams)
            if generator.random() < HEADWAY:
                wait_for(partial(_headway, service, streams, endings), PATIENCE_S)
                time.sleep(generator.uniform(0.0, 1.0))
            service.hit(victim, how, generator)
        for stream in streams:
            endings.append(_judge(service, stream, wait_for(stream.ended, PATIENCE_S)))
    reasons = [reason for ending in endings for reason in ending.interruptions]
    return {
        "kills": kills,
        "blows": dict(Counter(f"{how.name} of the {victim}" for victim, how in blows)),
        "jobs": dict(Counter(ending.name for ending in endings)),
        "interruptions": dict(Counter(re.sub(r"\d+", "N", reason) for reason in reasons)),
        "most_interruptions_of_a_job": max(len(ending.interruptions) for ending in endings),
        "broken": [promise for ending in endings for promise in ending.broken],
    }


def _streams(clients: Sequence[Handful], epochs: int) -> list[Stream]:
    full, gradual, last = (
        {"name": name} for name in ("full", "discriminative", "feature_extraction")
    )
    recipe: Json = {"epochs": epochs, "batch_size": 8, "rate": 3e-3}
    long, short = (recipe | {"epochs": number} for number in (4 * epochs, epochs // 2))
    once: Json = {"folds": 2, "promote": "never", "recipe": recipe}
    episodes: Json = {"ways": 2, "shots": 1, "queries": 2, "episodes": 20 * epochs}
    tried = {
        "full": once | {"methods": [full]},
        "discriminative": once | {"methods": [gradual], "augmentation": [{"name": "mixup"}]},
        "feature_extraction": once | {"methods": [last], "recipe": long | {"ema_decay": 0.9}},
    }
    several = once | {"methods": [full, gradual, last], "recipe": short, "promote": "always"}
    across = Training("metatrain", episodes | {"promote": "never"})
    cvae = {"name": "cvae", "options": {"steps": 100 * epochs, "width": 32}}
    moved = Training("generate", {"groups": [{"name": "clusters"}, cvae], "promote": "never"})
    finetunings = {name: Training("finetune", options) for name, options in tried.items()}
    return [  # first what a quick run would not come to
        Stream(clients[0], "tried", {"moved": moved, "across": across, **finetunings}),
        Stream(clients[-1], "served", {"several": Training("finetune", several)}),
    ]


def _blows(count: int, generator: random.Random) -> list[tuple[str, signal.Signals]]:
    """Each kind of blow once, then as often as its share says, in random order."""
    blows = [*BLOWS, *generator.choices(list(BLOWS), list(BLOWS.values()), k=count)][:count]
    generator.shuffle(blows)
    return blows


def _prepare(stream: Stream) -> None:
    """Fill the project, and run each of its trainings once to know what must come out."""
    stream.client.create_project(stream.project)
    pictures = (noise(seed, SIDE) for seed in itertools.count())
    for label in LABELS:
        stream.client.add_support(stream.project, label, list(itertools.islice(pictures, SHOTS)))
    stream.client.add_images(stream.project, list(itertools.islice(pictures, POOL_IMAGES)))
    for _ in stream.trainings:
        stream.start()
        job = wait_for(stream.ended, PATIENCE_S)
        if job.state != "succeeded" or job.attempt != 1:
            raise RuntimeError(f"a job that nobody disturbed did not succeed at once: {job}")
        stream.undisturbed[stream.training] = stream.outcome(job)
    stream.start()


def _advance(service: Service, streams: Sequence[Stream]) -> Iterator[Ending]:
    """Judge the jobs that have ended, and start the next ones."""
    for stream in streams:
        if job := stream.ended():
            yield _judge(service, stream, job)
            stream.start(job)


def _headway(service: Service, streams: Sequence[Stream], endings: list[Ending]) -> bool:
    """Whether a job has got on since this was last true."""
    endings += _advance(service, streams)
    progressed = [stream.has_progressed() for stream in streams]  # all are asked
    return any(progressed)


def _result(job: JobRead) -> Json:
    """With the fields of the kind of job."""
    return job.result.model_dump() if job.result else {}


def _judge(service: Service, stream: Stream, job: JobRead) -> Ending:
    """Compare the last job, which has ended, with what was promised."""
    events, products = stream.events(), stream.products()
    states = [event.data for event in events if event.kind == "state"]
    reasons = [str(state.reason) for state in states if state.state == "interrupted"]
    entered = [state.state for state in states if state.state in FINAL]
    numbers = [event.number for event in events]
    trained = job.kind in TRAINING and job.state == "succeeded"
    last = events[-1]
    promises = {
        f"{job.state}: {job.error}": job.state == "succeeded",
        f"entered the final states {entered}": entered == ["succeeded"],
        "has events after its end": last.kind == "state" and last.data.state == job.state,
        "has events with gaps or twice": numbers == list(range(1, len(events) + 1)),
        f"made {len(products)} versions and heads": len(products) == int(trained),
    }
    if trained:
        undisturbed, outcome = stream.undisturbed[stream.training], stream.outcome(job)
        times = Counter((run, epoch) for run, epoch, _ in outcome.curve)
        twice = [position for position, count in times.items() if count > 1]
        promises |= {
            f"told (run, epoch) {twice} more than once": not twice,
            "its losses differ": list(dict.fromkeys(outcome.curve)) == undisturbed.curve,
            "its weights differ": outcome.weights == undisturbed.weights,
        }
    if _result(job).get("promoted"):
        project, version = stream.client.project(stream.project), UUID(_result(job)["version"])
        bare = service.without_embedding(project.id)
        promises |= {
            "its version does not serve the project": project.encoder.id == version,
            f"{bare} images have no embedding": bare == 0,
        }
    broken = [f"{job.kind} {job.id}: {name}" for name, is_met in promises.items() if not is_met]
    for promise in broken:
        print(f"BROKEN: {promise}", flush=True)
    return Ending(f"{job.kind} {job.state}", reasons, broken)


def _send(pid: int, how: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, how)


if __name__ == "__main__":
    kills = option("--kills", 100, quick=len(BLOWS), help="on each database, stops included")
    run(measure, kills, DATABASE, SERVERS, BUCKET)
