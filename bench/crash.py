"""SIGKILL at random points: nothing that was acknowledged may be missing afterwards.

Four clients upload and label while the server is killed, or one of several. After each restart
every acknowledged upload must be there, byte for byte, with the last acknowledged label, and
whatever classify or rank can see must have an embedding. With several servers any is asked. Every
hundred kills they go on in a new project; at the end all projects are looked through once more.
"""

import hashlib
import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from uuid import UUID

from bench.data import noise
from bench.figures import progress
from bench.harness import BUCKET, DATABASE, SERVERS, Options, Result, option, run
from bench.processes import (
    ForkedServer,
    Server,
    in_background,
    new_bucket,
    on_databases,
    without_embedding,
)
from handful.client import Handful
from handful.retries import RequestRefused, ServiceUnreachable

CLIENTS = 4
LABELS = ("a", "b", "c")
KILLS = 100  # of a project; to look through more images would take longer than the work
SIDE = 24  # pixels


def measure(options: Options) -> Result:
    """Kill a server on each database."""
    os.environ["OMP_NUM_THREADS"] = "1"  # else every start would try streams
    with new_bucket(options.bucket) as bucket:
        work = partial(_crash, options.kills, options.servers, bucket)
        figures = on_databases(options.database, work)
    total = sum((Counter(row) for row in figures.values()), Counter())
    lost = total["uploads_lost"] + total["labels_lost"]
    bare = total["without_embedding"] + total["unseen_by_rank"]
    headline = (
        f"{total['kills']} kills on {' and '.join(figures)}"
        f"{f' of one of {options.servers} servers' if options.servers > 1 else ''}"
        f"{', files in a bucket' if options.bucket else ''}: "
        f"{total['uploads_acknowledged']} uploads and {total['labels_acknowledged']} labels "
        f"acknowledged, {lost} lost; {bare} images without an embedding"
    )
    return Result({"databases": figures}, headline, lost + bare == 0)


def _crash(
    kills: int, count: int, bucket: dict[str, str], folder: Path, database: str
) -> dict[str, int]:
    generator = random.Random(0)
    settings = {
        "database_url": database,
        "encoder": "conv4:8",
        "device": "cpu",
        "runtime": "pytorch",  # a trial of others would take longer than the rest of a start
        **bucket,
    }
    servers = [ForkedServer(folder, **settings) for _ in range(count if database else 1)]
    numbers = itertools.count()
    projects: list[Project] = []
    lost: Counter[str] = Counter()
    with ExitStack() as running:
        for server in servers:
            running.enter_context(server)
        for number in progress(range(kills), "kills", every=10):
            if number % KILLS == 0:
                projects.append(Project(f"crash-{number}", servers, numbers))
            project, checked = projects[-1], projects[-1].images()
            victim, witness = generator.choice(servers), generator.choice(servers)
            with in_background([ledger.work for ledger in project.ledgers]):
                time.sleep(generator.uniform(0.05, 1.5))
                victim.stop(signal.SIGKILL)
            victim.start()
            # Every tenth time all that was ever acknowledged, otherwise what is new.
            whole = number % 10 == 9
            with Handful(witness.url) as client:
                lost.update(project.losses(client, set() if whole else checked))
            lost.update(without_embedding=without_embedding(folder, database, project.id))
        with Handful(servers[0].url) as client:
            for project in projects:
                lost.update(project.losses(client, set()))
                lost.update(without_embedding=without_embedding(folder, database, project.id))
    counts = sum((p.counts() for p in projects), Counter())
    names = ("uploads_acknowledged", "labels_acknowledged", "refused")
    return {"kills": kills, **{name: counts[name] for name in names}, **lost}


class Project:
    """A project with three labels, and what its clients know of it."""

    def __init__(self, name: str, servers: Sequence[Server], numbers: Iterator[int]) -> None:
        self.name = name
        with Handful(servers[0].url) as client:
            self.id = client.create_project(name).id
            for label in LABELS:  # with an image each, so that something can be classified
                client.create_label(name, label)
                client.add_support(name, label, [noise(next(numbers), SIDE)])
        self.ledgers = [
            Ledger(servers[n % len(servers)].url, name, numbers, n) for n in range(CLIENTS)
        ]

    def images(self) -> set[UUID]:
        """All whose upload was acknowledged."""
        return {image for ledger in self.ledgers for image in ledger.sha256}

    def counts(self) -> Counter[str]:
        """What was acknowledged and refused."""
        return sum((ledger.counts for ledger in self.ledgers), Counter())

    def losses(self, client: Handful, checked: Collection[UUID]) -> dict[str, int]:
        """How much is not there; of images that were checked before, the contents are not read."""
        stored = {image.id: image.label for image in client.all(client.images, self.name)}
        uploads = labels = 0
        for ledger in self.ledgers:
            for image, sha256 in ledger.sha256.items():
                if image not in stored:
                    uploads += 1
                    continue
                labels += stored[image] not in ledger.labels[image]
                ledger.labels[image] = {stored[image]}
                if image not in checked:
                    content = client.image_content(self.name, image)
                    uploads += hashlib.sha256(content).hexdigest() != sha256
        pool = {image.id for image in client.all(client.images, self.name, state="pool")}
        ranked = client.rank(self.name, strategy="random", budget=10_000).images
        unseen = len(pool ^ {image.image for image in ranked})
        client.classify(self.name, [noise(0, SIDE)])
        return {"uploads_lost": uploads, "labels_lost": labels, "unseen_by_rank": unseen}


class Ledger:
    """What the server acknowledged to one client, and the client."""

    def __init__(self, url: str, project: str, numbers: Iterator[int], seed: int) -> None:
        self.sha256: dict[UUID, str] = {}  # by image
        self.labels: dict[UUID, set[str | None]] = {}  # what may be there
        self.counts: Counter[str] = Counter()  # what is refused was not acknowledged
        self._url, self._project = url, project
        self._numbers, self._generator = numbers, random.Random(seed)

    def work(self, stop: threading.Event) -> None:
        """Upload, label, relabel and undo until the server is gone."""
        with Handful(self._url, patience_s=0) as client:
            while not stop.is_set():
                change = self._upload
                if self.sha256 and self._generator.random() < 0.6:
                    change = self._generator.choice([self._label, self._annotate])
                try:
                    change(client)
                except RequestRefused:
                    self.counts["refused"] += 1
                except ServiceUnreachable:
                    return

    def _upload(self, client: Handful) -> None:
        label = self._generator.choice([None, *LABELS])
        count = self._generator.choice([1, 1, 4, 16])
        files = [noise(number, SIDE) for number in itertools.islice(self._numbers, count)]
        for stored in client.add_images(self._project, files, label=label).images:
            self.sha256[stored.id] = hashlib.sha256(files[stored.position]).hexdigest()
            self.labels[stored.id] = {label}
            self.counts["uploads_acknowledged"] += 1

    def _label(self, client: Handful) -> None:
        image, label = self._generator.choice(list(self.sha256)), self._generator.choice(LABELS)
        self.labels[image].add(label)  # it may be there even if the answer never comes
        client.set_label(self._project, image, label)
        self._acknowledge([image], label)

    def _annotate(self, client: Handful) -> None:
        images = self._generator.sample(list(self.sha256), min(8, len(self.sha256)))
        label = self._generator.choice([None, *LABELS])
        for image in images:
            self.labels[image].add(label)
        answer = client.annotate(self._project, dict.fromkeys(images, label))
        refused = {images[failed.position] for failed in answer.failed}
        self.counts["refused"] += len(refused)
        self._acknowledge(set(images) - refused, label)

    def _acknowledge(self, images: Collection[UUID], label: str | None) -> None:
        self.labels |= {image: {label} for image in images}
        self.counts["labels_acknowledged"] += len(images)


if __name__ == "__main__":
    kills = option("--kills", 100, quick=3, help="on each database")
    run(measure, kills, DATABASE, SERVERS, BUCKET)
