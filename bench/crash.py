"""SIGKILL at random points: nothing that was acknowledged may be missing afterwards.

Four clients upload and label while the server is killed. After each restart every acknowledged
upload must be there, byte for byte, with the last acknowledged label, and whatever classify or
rank can see must have an embedding.
"""

import argparse
import contextlib
import hashlib
import io
import itertools
import random
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from sqlalchemy import func, select

from app.settings import Settings
from app.sql.database import Database
from app.sql.tables import Embedding
from app.sql.tables import Image as ImageRow
from bench.harness import Server, arguments, finish, new_database

CLIENTS = 4
LABELS = ("a", "b", "c")
BASE = "/v1/projects/crash"


@dataclass
class Ledger:
    """What the server acknowledged to one client."""

    sha256: dict[str, str] = field(default_factory=dict)  # by image
    labels: dict[str, set[str | None]] = field(default_factory=dict)  # what may be there
    uploads: int = 0
    labelings: int = 0
    refused: int = 0  # answered with an error, and so not acknowledged


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--kills", type=int, default=100, help="on each database")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], help="only this one")
    options = parser.parse_args()
    if options.quick:
        options.kills = 3
    result: dict[str, dict[str, int]] = {}
    for name in [options.database] if options.database else ["sqlite", "postgresql"]:
        with tempfile.TemporaryDirectory() as folder, new_database(name, Path(folder)) as url:
            result[name] = _crash(Path(folder), url, options.kills)
        print(f"{name}: {result[name]}", flush=True)
    _report(options, result)


def _crash(folder: Path, database: str, kills: int) -> dict[str, int]:
    chance = random.Random(0)
    server = Server(folder, database_url=database, encoder="conv4:8", device="cpu")
    ledgers = [Ledger() for _ in range(CLIENTS)]
    lost = {"uploads_lost": 0, "labels_lost": 0, "without_embedding": 0, "unseen_by_rank": 0}
    server.start()
    httpx.post(f"{server.url}/v1/projects", json={"name": "crash"}).raise_for_status()
    for label in LABELS:
        httpx.post(f"{server.url}{BASE}/labels", json={"name": label}).raise_for_status()
    pictures = itertools.count()
    for number in range(kills):
        seen_before = {image for ledger in ledgers for image in ledger.sha256}
        stop = threading.Event()
        threads = [
            threading.Thread(target=_work, args=(server.url, ledger, pictures, stop, n + number))
            for n, ledger in enumerate(ledgers)
        ]
        for thread in threads:
            thread.start()
        time.sleep(chance.uniform(0.05, 1.5))
        server.stop(signal.SIGKILL)
        stop.set()
        for thread in threads:
            thread.join()
        server.start()
        # Every tenth time all that was ever acknowledged, otherwise what is new.
        whole = number % 10 == 9 or number == kills - 1
        _check(server.url, ledgers, set() if whole else seen_before, lost)
        _check_embeddings(server.url, folder, database, lost)
        if number % 10 == 9:
            print(f"{number + 1} kills, lost {lost}", flush=True)
    server.stop(signal.SIGINT)
    return {
        "kills": kills,
        "uploads_acknowledged": sum(ledger.uploads for ledger in ledgers),
        "labels_acknowledged": sum(ledger.labelings for ledger in ledgers),
        "refused": sum(ledger.refused for ledger in ledgers),
        **lost,
    }


def _work(
    url: str, ledger: Ledger, pictures: Iterator[int], stop: threading.Event, seed: int
) -> None:
    """Upload, label, relabel and undo until the server is gone."""
    chance = random.Random(seed)
    with (
        contextlib.suppress(httpx.TransportError),
        httpx.Client(base_url=url, timeout=30, trust_env=False) as client,
    ):
        while not stop.is_set():
            try:
                if ledger.sha256 and chance.random() < 0.6:
                    chance.choice([_label, _annotate])(client, ledger, chance)
                else:
                    _upload(client, ledger, pictures, chance)
            except httpx.HTTPStatusError:
                ledger.refused += 1


def _upload(
    client: httpx.Client, ledger: Ledger, pictures: Iterator[int], chance: random.Random
) -> None:
    label = chance.choice([None, *LABELS])
    path = f"{BASE}/labels/{label}/support" if label else f"{BASE}/pool"
    files = [_picture(next(pictures)) for _ in range(chance.choice([1, 1, 4, 16]))]
    answer = client.post(path, files=[("files", ("x.png", file)) for file in files])
    for stored in answer.raise_for_status().json()["images"]:
        ledger.sha256[stored["id"]] = hashlib.sha256(files[stored["position"]]).hexdigest()
        ledger.labels[stored["id"]] = {label}
        ledger.uploads += 1


def _label(client: httpx.Client, ledger: Ledger, chance: random.Random) -> None:
    image, label = chance.choice(list(ledger.sha256)), chance.choice(LABELS)
    ledger.labels[image].add(label)  # it may be there even if the answer never comes
    client.put(f"{BASE}/images/{image}/label", json={"label": label}).raise_for_status()
    ledger.labels[image] = {label}
    ledger.labelings += 1


def _annotate(client: httpx.Client, ledger: Ledger, chance: random.Random) -> None:
    images = chance.sample(list(ledger.sha256), min(8, len(ledger.sha256)))
    label = chance.choice([None, *LABELS])
    for image in images:
        ledger.labels[image].add(label)
    changes = [{"image": image, "label": label} for image in images]
    answer = client.post(f"{BASE}/annotations", json={"annotations": changes}).raise_for_status()
    refused = {failed["position"] for failed in answer.json()["failed"]}
    ledger.refused += len(refused)
    for position, image in enumerate(images):
        if position not in refused:
            ledger.labels[image] = {label}
            ledger.labelings += 1


def _check(url: str, ledgers: list[Ledger], known: set[str], lost: dict[str, int]) -> None:
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        there = {image["id"]: image for image in _images(client)}
        for ledger in ledgers:
            for image, sha256 in ledger.sha256.items():
                if image not in there:
                    lost["uploads_lost"] += 1
                    continue
                if there[image]["label"] not in ledger.labels[image]:
                    lost["labels_lost"] += 1
                ledger.labels[image] = {there[image]["label"]}
                if image not in known:
                    content = client.get(f"{BASE}/images/{image}/content").content
                    lost["uploads_lost"] += hashlib.sha256(content).hexdigest() != sha256


def _check_embeddings(url: str, folder: Path, database: str, lost: dict[str, int]) -> None:
    db = Database(Settings(data_dir=folder, database_url=database).database)
    with db.reading() as session:
        bare = select(func.count()).select_from(ImageRow).outerjoin(Embedding)
        lost["without_embedding"] += session.scalar(bare.where(Embedding.image_id.is_(None))) or 0
    db.close()
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        pool = {image["id"] for image in _images(client, state="pool")}
        body = {"strategy": {"name": "random"}, "budget": 10_000}
        ranked = client.post(f"{BASE}/pool/rank", json=body).raise_for_status().json()["images"]
        lost["unseen_by_rank"] += len(pool ^ {one["image"] for one in ranked})
        client.post(f"{BASE}/classify", files={"files": _picture(0)}).raise_for_status()


def _images(client: httpx.Client, **wanted: str) -> Iterator[dict[str, Any]]:
    cursor: dict[str, str] = {}
    while True:
        query = {"limit": "1000", **wanted, **cursor}
        page = client.get(f"{BASE}/images", params=query).raise_for_status().json()
        yield from page["items"]
        if page["next_cursor"] is None:
            return
        cursor = {"cursor": page["next_cursor"]}


def _picture(number: int) -> bytes:
    """A small picture like no other."""
    noise = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def _report(options: argparse.Namespace, result: dict[str, dict[str, int]]) -> None:
    total = {key: sum(one[key] for one in result.values()) for key in next(iter(result.values()))}
    lost = total["uploads_lost"] + total["labels_lost"]
    bare = total["without_embedding"] + total["unseen_by_rank"]
    headline = (
        f"{total['kills']} kills on {' and '.join(result)}: "
        f"{total['uploads_acknowledged']} uploads and {total['labels_acknowledged']} labels "
        f"acknowledged, {lost} lost; {bare} images without an embedding"
    )
    finish(options, {"databases": result}, headline, kept=lost + bare == 0)


if __name__ == "__main__":
    main()
