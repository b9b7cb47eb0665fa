"""Hours of everyday work: nothing fails, and nothing grows but what is stored.

Two servers with a worker each share PostgreSQL, which restarts every ten minutes; SQLite has one.
Clients make a project, upload, label, rank, classify, ask for a report, train, are told of it by a
webhook, and delete the project, so that as much is stored after a round as before. Once a minute
the memory, descriptors and threads of every process are counted, the rows of every table and the
files. A figure is level when the slope of a line through the second half of its samples
(Theil-Sen, 99 %) may be zero, or is below one percent an hour.
"""

import http.server
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from scipy.stats import theilslopes

from app.settings import Settings
from app.sql.database import Database
from app.sql.tables import Project
from bench.data import noise
from bench.harness import DATABASE, Options, Result, option, run
from bench.processes import (
    Server,
    children,
    in_background,
    memory,
    on_databases,
    restart_postgresql,
    wait_for,
)
from handful.client import Handful
from handful.contract.jobs import FINAL
from handful.retries import RequestRefused, ServiceUnreachable

CLIENTS = 4
SIDE = 24  # pixels
PATIENCE_S = 300.0
SAMPLES_AN_HOUR = 60
RESTART_HOURS = 1 / 6
TELLING_HOURS = 0.5  # a shorter run, in which caches still fill, says nothing of growth
CONFIDENCE = 0.99
NEGLIGIBLE = 0.01  # of a figure, in an hour
Sample = Mapping[str, float]


def measure(options: Options) -> Result:
    """Work on each database for a while."""
    figures = on_databases(options.database, partial(_soak, options.hours))
    rows = list(figures.values())
    growing = [f"{row} on {name}" for name in figures for row in figures[name]["growing"]]
    failures = sum((Counter(row["failures"]) for row in rows), Counter())
    headline = (
        f"{options.hours:g} hours on {' and '.join(figures)}: {sum(r['rounds'] for r in rows)} "
        f"rounds, {sum(r['restarts'] for r in rows)} restarts of the database, "
        f"{failures.total()} failures, growing: "
        + (
            ", ".join(growing)
            or ("nothing" if options.hours >= TELLING_HOURS else "too short to tell")
        )
    )
    return Result({"databases": figures}, headline, not growing and not failures)


def _soak(hours: float, folder: Path, database: str) -> dict[str, Any]:
    settings = {
        "database_url": database,
        "encoder": "conv4:8",
        "device": "cpu",
        "runtime": "pytorch",
        "workers": "1",
        "training_threads": "1",
        "webhooks_to_private_addresses": "true",
    }
    counts: Counter[str] = Counter()
    samples: list[Sample] = []
    with ExitStack() as running:
        servers = [
            running.enter_context(Server(folder, **settings)) for _ in range(2 if database else 1)
        ]
        messages = running.enter_context(_receiver(counts))
        clients = [
            partial(_work, servers[n % len(servers)].url, messages, counts, n)
            for n in range(CLIENTS)
        ]
        db = Database(Settings(data_dir=folder, database_url=database).database)
        running.callback(db.close)
        started = time.monotonic()
        with in_background(clients):
            while (passed := (time.monotonic() - started) / 3600) < hours:
                if database and passed > min(RESTART_HOURS, hours / 2) * (counts["restarts"] + 1):
                    restart_postgresql(folder)
                    counts["restarts"] += 1
                samples.append(_sample(passed, folder, db, servers))
                time.sleep(min(3600 / SAMPLES_AN_HOUR, hours * 3600 / 30))
    names = sorted({name for sample in samples for name in sample} - {"hours"})
    slopes = {name: _growth(samples, name) for name in names}
    return {
        "rounds": counts["rounds"],
        "restarts": counts["restarts"],
        "messages": counts["messages"],
        "failures": {name: n for name, n in counts.items() if name.startswith("failed")},
        "growing": [
            name for name in names if hours >= TELLING_HOURS and slopes[name]["lowest"] > NEGLIGIBLE
        ],
        "growth_an_hour": slopes,
    }


def _work(url: str, messages: str, counts: Counter[str], seed: int, stop: threading.Event) -> None:
    """Rounds of everyday work, each in a project of its own."""
    number = 0
    with Handful(url, patience_s=PATIENCE_S) as client:
        while not stop.is_set():
            number += 1
            project = f"soak-{seed}-{number}"
            try:
                _round(client, project, messages, seed * 10**6 + number)
                counts["rounds"] += 1
            except (RequestRefused, ServiceUnreachable, RuntimeError) as error:
                counts[f"failed: {error!r}"] += 1
                print(f"FAILED: {error!r}", flush=True)


def _round(client: Handful, project: str, messages: str, seed: int) -> None:
    client.create_project(project)
    client.create_webhook(project, messages)
    pictures = [noise(seed * 100 + n, SIDE) for n in range(24)]
    for label, part in (("a", pictures[:6]), ("b", pictures[6:12])):
        client.add_support(project, label, part)
    pool = [stored.id for stored in client.add_images(project, pictures[12:]).images]
    for image in pool[:4]:
        client.set_label(project, image, "a")
    client.rank(project, budget=4)
    client.next_images(project, "ann", budget=2)
    client.classify(project, pictures[:2])
    client.report(project)
    recipe = {"epochs": 1, "batch_size": 8}
    options = {"methods": [{"name": "full"}], "folds": 2, "promote": "always", "recipe": recipe}
    job = client.start_job(project, "finetune", **options).id

    def ended() -> bool:
        return client.job(project, job).state in FINAL

    wait_for(ended, PATIENCE_S, pause_s=1.0)
    state = client.job(project, job).state
    client.delete_project(project)
    if state != "succeeded":
        raise RuntimeError(f"a job ended as {state}")


@contextmanager
def _receiver(counts: Counter[str]) -> Iterator[str]:
    """An address that takes the messages of webhooks."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            counts["messages"] += 1
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:  # also when it is stopped: nobody else would end the thread
            server.shutdown()
            thread.join()


def _sample(hours: float, folder: Path, db: Database, servers: list[Server]) -> Sample:
    sample: dict[str, float] = {"hours": hours}
    for number, server in enumerate(servers):
        sample |= _usage(f"server {number}", server.pid)
        for worker in children(server.pid):
            sample |= _usage(f"worker {number}", worker)
    try:
        with db.reading() as session:
            for name, table in Project.metadata.tables.items():
                count = session.scalar(sa.select(sa.func.count()).select_from(table))
                sample[f"rows of {name}"] = count or 0
    except sa.exc.OperationalError:
        pass  # it restarts
    stored = [path for path in folder.rglob("*") if "postgresql" not in path.parts]
    return sample | {"files": sum(path.is_file() for path in stored)}


def _usage(name: str, pid: int | None) -> Sample:
    """Of a process that runs."""
    process = Path(f"/proc/{pid}")
    try:
        return {
            f"MiB of {name}": memory("VmRSS", pid),
            f"descriptors of {name}": sum(1 for _ in (process / "fd").iterdir()),
            f"threads of {name}": sum(1 for _ in (process / "task").iterdir()),
        }
    except (FileNotFoundError, ProcessLookupError, StopIteration):
        return {}  # it has just ended


def _growth(samples: list[Sample], name: str) -> dict[str, float]:
    """Share of a figure by which it grows in an hour, and the bounds of that."""
    half = [sample for sample in samples[len(samples) // 2 :] if name in sample]
    values = [sample[name] for sample in half]
    level = sum(values) / len(values) if values else 0
    if len(values) < 3 or not level:
        return {"median": 0.0, "lowest": 0.0, "highest": 0.0, "level": level}
    fit = theilslopes(values, [sample["hours"] for sample in half], alpha=CONFIDENCE)
    slopes = {"median": fit.slope, "lowest": fit.low_slope, "highest": fit.high_slope}
    return {k: round(float(v) / level, 4) for k, v in slopes.items()} | {"level": round(level, 1)}


if __name__ == "__main__":
    run(measure, option("--hours", 2.0, quick=0.05, help="on each database"), DATABASE)
