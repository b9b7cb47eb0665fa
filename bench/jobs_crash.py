"""SIGKILL and SIGSTOP at random points: every job ends once, as if nothing had happened.

Three workers share a database, and two jobs are in work at any time. The process of a job, of a
worker or of the server is killed; or it is stopped for longer than a lease, so that another worker
takes the job, and goes on then. Each job must end in one final state with exactly one encoder
version, its events numbered without gaps and every epoch told once, and its losses and weights must
equal, bit for bit, those of a job with the same options that nothing disturbed.
"""

import argparse
import functools
import hashlib
import io
import itertools
import os
import random
import re
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import httpx
import numpy as np
from PIL import Image
from sqlalchemy import func, select

from app.settings import Settings
from app.sql.database import Database
from app.sql.tables import Embedding
from app.sql.tables import Image as ImageRow
from bench.harness import Command, Server, arguments, children, finish, new_database

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
Options = dict[str, Any]
Found = TypeVar("Found")


class Outcome(NamedTuple):
    """What a training must give again, whatever happens to it."""

    curve: list[tuple[int, int, float]]  # run, epoch and loss, in the order in which they were told
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
        self.db = Settings(data_dir=folder, database_url=database).database
        self.server = Server(folder, workers="1", **patient)
        self.workers = [Command("worker", data=folder, **patient) for _ in range(2)]
        self.strict = Server(folder, workers="1", job_attempts=str(ATTEMPTS), **settings)

    def job_pids(self) -> dict[int, list[int]]:
        """The processes of jobs, by worker."""
        own = [worker.pid for worker in self.workers if worker.pid]
        beside = children(self.server.pid) if self.server.pid else []
        return {worker: children(worker) for worker in own + beside}

    def kill(self, pid: int) -> None:
        """Kill a process, and start it again where nobody else does."""
        for command in (self.server, *self.workers):
            if command.pid == pid:
                command.stop(KILL)
                command.start()
                return
        _send(pid, KILL)


@dataclass
class Tally:
    """What happened to the jobs, and what should not have."""

    jobs: Counter[str] = field(default_factory=Counter)  # that ended, by kind and state
    interruptions: Counter[str] = field(default_factory=Counter)  # by reason
    most: int = 0  # interruptions of one job
    broken: list[str] = field(default_factory=list)

    def expect(self, kept: bool, job: dict[str, Any], complaint: str) -> None:
        """Note a promise that was not kept."""
        if not kept:
            self.broken.append(f"{job['kind']} {job['id']}: {complaint}")
            print(f"BROKEN: {self.broken[-1]}", flush=True)


class Stream:
    """Jobs of a project, one after the other.

    Args:
        trainings: options by name; they take turns.
    """

    def __init__(self, project: str, trainings: dict[str, Options]) -> None:
        self.project = project
        self.path = f"/v1/projects/{project}"
        self.trainings = trainings
        self.known: dict[str, Outcome] = {}
        self.training = ""  # the last one
        self.location = ""  # of the last job
        self._names = itertools.cycle(trainings)
        self._seen = 0  # events of the last job

    def train(self, client: httpx.Client) -> None:
        """Start the next training."""
        self.training = next(self._names)
        body = {"kind": "finetune", "options": self.trainings[self.training]}
        self._follow(client.post(f"{self.path}/jobs", json=body))

    def promote(self, client: httpx.Client, version: str) -> None:
        """Start to promote a version."""
        self._follow(client.post(f"{self.path}/encoders/{version}/promote"))

    def read(self, client: httpx.Client) -> dict[str, Any]:
        """The last job."""
        job: dict[str, Any] = client.get(self.location).raise_for_status().json()
        return job

    def ended(self, client: httpx.Client) -> dict[str, Any] | None:
        """The last job, once it has ended."""
        job = self.read(client)
        return job if job["state"] in FINAL else None

    def events(self, client: httpx.Client) -> list[dict[str, Any]]:
        """All events of the last job."""
        found: list[dict[str, Any]] = []
        while True:
            query = {"limit": 1000, "after": found[-1]["number"] if found else 0}
            page = client.get(f"{self.location}/events", params=query).raise_for_status().json()
            found += page["items"]
            if len(page["items"]) < 1000:
                return found

    def has_told(self, client: httpx.Client) -> bool:
        """Whether the last job has told metrics since this was last asked."""
        query = {"after": self._seen, "limit": 1000}
        page = client.get(f"{self.location}/events", params=query).raise_for_status().json()
        for event in page["items"]:
            self._seen = event["number"]
        return any(event["kind"] == "metrics" for event in page["items"])

    def outcome(self, client: httpx.Client, version: str) -> Outcome:
        """What the last job has given."""
        told = [event["data"] for event in self.events(client) if event["kind"] == "metrics"]
        weights = client.get(f"{self.path}/encoders/{version}/weights").raise_for_status()
        return Outcome(
            [(t["run"], t["epoch"], t["loss"]) for t in told if t["stage"] == "training"],
            hashlib.sha256(weights.content).hexdigest(),
        )

    def versions(self, client: httpx.Client) -> list[str]:
        """The encoder versions that the last job has made."""
        query = {"limit": 1000}
        page = client.get(f"{self.path}/encoders", params=query).raise_for_status().json()
        job = self.location.rpartition("/")[2]
        return [version["id"] for version in page["items"] if version["job"] == job]

    def _follow(self, answer: httpx.Response) -> None:
        self.location, self._seen = answer.raise_for_status().headers["Location"], 0


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--kills", type=int, default=100, help="on each database, stops included")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], help="only this one")
    options = parser.parse_args()
    if options.quick:
        options.kills = len(BLOWS)
    result: dict[str, dict[str, Any]] = {}
    for name in [options.database] if options.database else ["sqlite", "postgresql"]:
        with tempfile.TemporaryDirectory() as folder, new_database(name, Path(folder)) as url:
            result[name] = _crash(Path(folder), url, options.kills, 4 if options.quick else 8)
        print(f"{name}: {result[name]}", flush=True)
    _report(options, result)


def _crash(folder: Path, database: str, kills: int, epochs: int) -> dict[str, Any]:
    chance = random.Random(0)
    service, tally, streams = Service(folder, database), Tally(), _streams(epochs)
    blows = _blows(kills, chance)
    with ExitStack() as running:
        for command in (service.server, *service.workers):
            running.enter_context(command)
        with _client(service.server) as client, ThreadPoolExecutor() as threads:
            list(threads.map(lambda stream: _prepare(client, stream), streams))
        print("all trainings have run once, undisturbed", flush=True)
        started = time.monotonic()
        for number, (what, how) in enumerate(blows, 1):
            time.sleep(chance.uniform(0.2, 3.0))
            _advance(service, streams, tally)
            if chance.random() < HEADWAY:
                _wait(functools.partial(_headway, service, streams, tally))
                time.sleep(chance.uniform(0.0, 1.0))
            _hit(service, what, how, chance)
            if number % 10 == 0 or number == kills:
                ended = sum(tally.jobs.values())
                print(
                    f"{number} kills in {time.monotonic() - started:.0f} s, {ended} jobs ended, "
                    f"{len(tally.broken)} promises broken",
                    flush=True,
                )
        with _client(service.server) as client:
            for stream in streams:
                _judge(client, service.db, stream, _end(client, stream), tally)
    with service.strict:
        _exhaust(service, streams[0], tally)
    return {
        "kills": kills,
        "blows": dict(Counter(f"{how.name} of the {what}" for what, how in blows)),
        "jobs": dict(tally.jobs),
        "interruptions": dict(tally.interruptions),
        "most_interruptions_of_a_job": tally.most,
        "broken": tally.broken,
    }


def _streams(epochs: int) -> list[Stream]:
    full, gradual, last = (
        {"name": name} for name in ("full", "discriminative", "feature_extraction")
    )
    recipe = {"epochs": epochs, "batch_size": 8, "rate": 3e-3}
    averaged = recipe | {"epochs": 4 * epochs, "ema_decay": 0.9}
    short = recipe | {"epochs": epochs // 2}
    common = {"folds": 2, "promote": "never"}
    return [
        Stream(
            "tried",
            {
                "full": common | {"methods": [full], "recipe": recipe},
                "discriminative": common
                | {"methods": [gradual], "recipe": recipe, "augmentation": [{"name": "mixup"}]},
                "feature_extraction": common | {"methods": [last], "recipe": averaged},
            },
        ),
        Stream(
            "served",
            {
                "several": common
                | {"methods": [full, gradual, last], "recipe": short, "promote": "always"}
            },
        ),
    ]


def _blows(count: int, chance: random.Random) -> list[tuple[str, signal.Signals]]:
    """Each kind of blow once, then as often as its share says, in random order."""
    blows = list(BLOWS)
    while len(blows) < count:
        blows += [blow for blow, share in BLOWS.items() for _ in range(share)]
    blows = blows[:count]
    chance.shuffle(blows)
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
        stream.known[stream.training] = stream.outcome(client, job["result"]["version"])
    stream.train(client)


def _advance(service: Service, streams: Sequence[Stream], tally: Tally) -> None:
    """Judge the jobs that have ended, and start the next ones."""
    with _client(service.server) as client:
        for stream in streams:
            job = stream.ended(client)
            if job is None:
                continue
            _judge(client, service.db, stream, job, tally)
            if job["kind"] == "finetune" and job["result"] and not job["result"]["promoted"]:
                stream.promote(client, job["result"]["version"])
            else:
                stream.train(client)


def _headway(service: Service, streams: Sequence[Stream], tally: Tally) -> bool:
    """Whether a job has got on since this was last true."""
    _advance(service, streams, tally)
    with _client(service.server) as client:
        told = [stream.has_told(client) for stream in streams]  # all are asked
    return any(told)


def _hit(service: Service, what: str, how: signal.Signals, chance: random.Random) -> None:
    victims = _wait(lambda: _victims(service, what, chance))
    if how == KILL:
        service.kill(*victims)
        return
    try:
        for pid in victims:
            _send(pid, STOP)
        time.sleep(LEASE_S + chance.uniform(0.3, 2.0))
    finally:
        chance.shuffle(victims)
        for pid in victims:
            _send(pid, signal.SIGCONT)


def _victims(service: Service, what: str, chance: random.Random) -> list[int]:
    """Processes to hit together; none while no job has one."""
    if what == "server":
        return [service.server.pid] if service.server.pid else []
    busy = [(worker, jobs) for worker, jobs in service.job_pids().items() if jobs]
    if not busy:
        return []
    worker, jobs = chance.choice(busy)
    return {"job": jobs, "worker": [worker], "worker and job": [worker, *jobs]}[what]


def _exhaust(service: Service, stream: Stream, tally: Tally) -> None:
    """Kill a job as often as it may be killed, and once more; then try it again."""
    with _client(service.strict) as client:
        while not _is_hit_each_time(client, service, stream):
            _judge(client, service.db, stream, _end(client, stream), tally)
        job = _end(client, stream)
        error = str(job["error"])
        clear = f"interrupted {ATTEMPTS} times" in error and "SIGKILL" in error
        tally.expect(job["state"] == "failed" and clear, job, f"should fail, but said {error!r}")
        tally.expect(not stream.versions(client), job, "failed, but has made a version")
        client.post(f"{stream.location}/retry").raise_for_status()
        job = _end(client, stream)
        _judge(client, service.db, stream, job, tally, ends=("failed", "succeeded"))
        print(f"killed {ATTEMPTS} times with as many attempts: {error}", flush=True)


def _is_hit_each_time(client: httpx.Client, service: Service, stream: Stream) -> bool:
    """Start a job and kill each attempt; whether none ended before its blow."""
    stream.train(client)
    for attempt in range(1, ATTEMPTS + 1):
        _wait(functools.partial(_computes, client, stream, attempt))
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
    database: str,
    stream: Stream,
    job: dict[str, Any],
    tally: Tally,
    ends: Sequence[str] = ("succeeded",),
) -> None:
    """Compare the last job, which has ended, with what was promised.

    Args:
        ends: the final states that it must have entered, one after the other.
    """

    def expect(kept: bool, complaint: str) -> None:
        tally.expect(kept, job, complaint)

    events = stream.events(client)
    states = [event["data"] for event in events if event["kind"] == "state"]
    reasons = [one["reason"] for one in states if one["state"] == "interrupted"]
    tally.jobs[f"{job['kind']} {job['state']}"] += 1
    tally.interruptions.update(re.sub(r"\d+", "N", reason) for reason in reasons)
    tally.most = max(tally.most, len(reasons))
    expect(job["state"] == ends[-1], f"{job['state']}: {job['error']}")
    entered = [one["state"] for one in states if one["state"] in FINAL]
    expect(entered == list(ends), f"entered the final states {entered}")
    expect(events[-1]["data"].get("state") == job["state"], "has events after its end")
    numbers = [event["number"] for event in events]
    expect(numbers == list(range(1, len(events) + 1)), "has events with gaps or twice")
    made = stream.versions(client)
    wanted = int(job["kind"] == "finetune" and job["state"] == "succeeded")
    expect(len(made) == wanted, f"made {len(made)} versions")
    if job["state"] != "succeeded":
        return
    if job["kind"] == "finetune":
        known, found = stream.known[stream.training], stream.outcome(client, made[0])
        times = Counter((run, epoch) for run, epoch, _ in found.curve)
        twice = [position for position, count in times.items() if count > 1]
        expect(not twice, f"told (run, epoch) {twice} more than once")
        expect(list(dict.fromkeys(found.curve)) == known.curve, "its losses differ")
        expect(found.weights == known.weights, "its weights differ")
    if job["result"]["promoted"]:
        project = client.get(stream.path).raise_for_status().json()
        version = job["result"]["version"]
        expect(project["encoder"]["id"] == version, "its version does not serve the project")
        bare = _without_embedding(database, UUID(project["id"]), UUID(version))
        expect(bare == 0, f"{bare} images have no embedding")


def _without_embedding(database: str, project: UUID, version: UUID) -> int:
    db = Database(database)
    theirs = (Embedding.image_id == ImageRow.id) & (Embedding.encoder_id == version)
    query = select(func.count()).select_from(ImageRow).outerjoin(Embedding, theirs)
    with db.reading() as session:
        query = query.where(ImageRow.project_id == project, Embedding.image_id.is_(None))
        bare = session.scalars(query).one()
    db.close()
    return bare


def _end(client: httpx.Client, stream: Stream) -> dict[str, Any]:
    return _wait(lambda: stream.ended(client))


def _wait(what: Callable[[], Found | None]) -> Found:
    """What comes of trying until it is something."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := what()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing happened for {PATIENCE_S:.0f} s")
        time.sleep(0.1)
    return found


def _send(pid: int, how: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, how)


def _client(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=60, trust_env=False)


def _stripes(way: str, seed: int) -> bytes:
    """A picture of noise with faint stripes, upright or level."""
    noise = np.random.default_rng([seed, way == "upright"]).random((84, 84, 3))
    wave = 0.1 * np.sin(np.arange(84) * 1.5)
    pixels = noise + wave.reshape((1, -1, 1) if way == "upright" else (-1, 1, 1))
    buffer = io.BytesIO()
    Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _report(options: argparse.Namespace, result: dict[str, dict[str, Any]]) -> None:
    kills = sum(one["kills"] for one in result.values())
    jobs = sum(sum(one["jobs"].values()) for one in result.values())
    interruptions = sum(sum(one["interruptions"].values()) for one in result.values())
    broken = sum(len(one["broken"]) for one in result.values())
    headline = (
        f"{kills} kills and stops on {' and '.join(result)}: {jobs} jobs were interrupted "
        f"{interruptions} times and ended once each, {broken} promises broken"
    )
    finish(options, {"databases": result}, headline, kept=broken == 0)


if __name__ == "__main__":
    main()
