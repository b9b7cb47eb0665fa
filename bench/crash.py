"""SIGKILL at random points: nothing that was acknowledged may be missing afterwards.

Four clients upload and label while the server is killed. After each restart every acknowledged
upload must be there, byte for byte, with the last acknowledged label, and whatever classify or
rank can see must have an embedding.
"""

import hashlib
import itertools
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import UUID

import numpy as np

from app.sql.tables import Embedding, Image
from bench.data import encoded
from bench.harness import DATABASE, Options, Result, option, run
from bench.processes import Server, in_background, on_databases, without_embedding
from handful.client import Handful
from handful.retries import RequestRefused, ServiceUnreachable

CLIENTS = 4
LABELS = ("a", "b", "c")
PROJECT = "crash"


@dataclass
class Ledger:
    """What the server acknowledged to one client."""

    sha256: dict[UUID, str] = field(default_factory=dict)  # by image
    labels: dict[UUID, set[str | None]] = field(default_factory=dict)  # what may be there
    uploads: int = 0
    labelings: int = 0
    refused: int = 0  # answered with an error, and so not acknowledged


def measure(options: Options) -> Result:
    """Kill a server on each database."""
    figures = on_databases(options.database, partial(_crash, options.kills))
    first = next(iter(figures.values()))
    total = {key: sum(row[key] for row in figures.values()) for key in first}
    lost = total["uploads_lost"] + total["labels_lost"]
    bare = total["without_embedding"] + total["unseen_by_rank"]
    headline = (
        f"{total['kills']} kills on {' and '.join(figures)}: "
        f"{total['uploads_acknowledged']} uploads and {total['labels_acknowledged']} labels "
        f"acknowledged, {lost} lost; {bare} images without an embedding"
    )
    return Result({"databases": figures}, headline, lost + bare == 0)


def _crash(kills: int, folder: Path, database: str) -> dict[str, int]:
    with Server(folder, database_url=database, encoder="conv4:8", device="cpu") as server:
        return _kill(server, kills, folder, database)


def _kill(server: Server, kills: int, folder: Path, database: str) -> dict[str, int]:
    generator = random.Random(0)
    ledgers = [Ledger() for _ in range(CLIENTS)]
    lost = {"uploads_lost": 0, "labels_lost": 0, "without_embedding": 0, "unseen_by_rank": 0}
    numbers = itertools.count()
    with Handful(server.url) as client:
        client.create_project(PROJECT)
        for label in LABELS:
            client.create_label(PROJECT, label)
    for number in range(kills):
        checked = {image for ledger in ledgers for image in ledger.sha256}
        works = [
            partial(_work, server, ledger, numbers, n + number) for n, ledger in enumerate(ledgers)
        ]
        with in_background(works):
            time.sleep(generator.uniform(0.05, 1.5))
            server.stop(signal.SIGKILL)
        server.start()
        # Every tenth time all that was ever acknowledged, otherwise what is new.
        whole = number % 10 == 9 or number == kills - 1
        with Handful(server.url) as client:
            _check(client, ledgers, set() if whole else checked, lost)
            lost["without_embedding"] += without_embedding(
                folder, database, Embedding.image_id == Image.id
            )
            _check_rank(client, lost)
        if number % 10 == 9:
            print(f"{number + 1} kills, lost {lost}", flush=True)
    return {
        "kills": kills,
        "uploads_acknowledged": sum(ledger.uploads for ledger in ledgers),
        "labels_acknowledged": sum(ledger.labelings for ledger in ledgers),
        "refused": sum(ledger.refused for ledger in ledgers),
        **lost,
    }


def _work(
    server: Server, ledger: Ledger, numbers: Iterator[int], seed: int, stop: threading.Event
) -> None:
    """Upload, label, relabel and undo until the server is gone."""
    generator = random.Random(seed)
    changes: list[Callable[[Handful, Ledger, random.Random], None]] = [_label, _annotate]
    with Handful(server.url, patience_s=0) as client:
        while not stop.is_set():
            try:
                if ledger.sha256 and generator.random() < 0.6:
                    generator.choice(changes)(client, ledger, generator)
                else:
                    _upload(client, ledger, numbers, generator)
            except RequestRefused:
                ledger.refused += 1
            except ServiceUnreachable:
                return


def _upload(
    client: Handful, ledger: Ledger, numbers: Iterator[int], generator: random.Random
) -> None:
    label = generator.choice([None, *LABELS])
    files = [_picture(next(numbers)) for _ in range(generator.choice([1, 1, 4, 16]))]
    for stored in client.add_images(PROJECT, files, label=label).images:
        ledger.sha256[stored.id] = hashlib.sha256(files[stored.position]).hexdigest()
        ledger.labels[stored.id] = {label}
        ledger.uploads += 1


def _label(client: Handful, ledger: Ledger, generator: random.Random) -> None:
    image, label = generator.choice(list(ledger.sha256)), generator.choice(LABELS)
    ledger.labels[image].add(label)  # it may be there even if the answer never comes
    client.set_label(PROJECT, image, label)
    ledger.labels[image] = {label}
    ledger.labelings += 1


def _annotate(client: Handful, ledger: Ledger, generator: random.Random) -> None:
    images = generator.sample(list(ledger.sha256), min(8, len(ledger.sha256)))
    label = generator.choice([None, *LABELS])
    for image in images:
        ledger.labels[image].add(label)
    answer = client.annotate(PROJECT, dict.fromkeys(images, label))
    refused = {failed.position for failed in answer.failed}
    ledger.refused += len(refused)
    for position, image in enumerate(images):
        if position not in refused:
            ledger.labels[image] = {label}
            ledger.labelings += 1


def _check(
    client: Handful, ledgers: list[Ledger], checked: set[UUID], lost: dict[str, int]
) -> None:
    stored = {image.id: image.label for image in client.all(client.images, PROJECT)}
    for ledger in ledgers:
        for image, sha256 in ledger.sha256.items():
            if image not in stored:
                lost["uploads_lost"] += 1
                continue
            lost["labels_lost"] += stored[image] not in ledger.labels[image]
            ledger.labels[image] = {stored[image]}
            if image not in checked:
                content = client.image_content(PROJECT, image)
                lost["uploads_lost"] += hashlib.sha256(content).hexdigest() != sha256


def _check_rank(client: Handful, lost: dict[str, int]) -> None:
    pool = {image.id for image in client.all(client.images, PROJECT, state="pool")}
    ranked = client.rank(PROJECT, strategy="random", budget=10_000).images
    lost["unseen_by_rank"] += len(pool ^ {image.image for image in ranked})
    client.classify(PROJECT, [_picture(0)])


def _picture(number: int) -> bytes:
    """A small picture like no other."""
    noise = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    return encoded(noise, "PNG")


if __name__ == "__main__":
    kills = option("--kills", 100, quick=3, help="on each database")
    run(measure, kills, DATABASE)
