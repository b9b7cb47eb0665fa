"""A service in a process of its own, behind a real socket."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import httpx

ROOT = Path(__file__).parents[1]
OPENAPI = ROOT / "docs/reference/openapi.json"  # another test says that the code has the same
PATIENCE_S = 240.0  # of tests that wait for a process on a busy machine


class ServerProcess:
    """`handful serve` with an encoder of a few kilobytes and no worker, once it is ready.

    Args:
        data: its data folder.
        database_url: empty is SQLite in the data folder.
        settings: others, as `drain_seconds=12`.
    """

    def __init__(self, data: Path, database_url: str = "", **settings: object) -> None:
        self.data = data
        chosen = {
            "data_dir": data,
            "database_url": database_url,
            "encoder": "conv4:8",
            "runtime": "pytorch",
            "device": "cpu",
            "workers": 0,
        } | settings
        environment = {f"HANDFUL_{name.upper()}": str(value) for name, value in chosen.items()}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve", "--port", "0"],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,  # no trial of streams
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []  # lines of its standard error, so far
        self.url = ""
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(PATIENCE_S) or not self.url:
            self.kill()
            raise RuntimeError("the service did not start:\n" + "".join(self.log[-30:]))

    @property
    def port(self) -> int:
        """That it listens on."""
        return int(self.url.rpartition(":")[2])

    def readiness(self) -> int | None:
        """The status of `/readyz`; None while nobody listens."""
        try:
            return httpx.get(f"{self.url}/readyz", trust_env=False, verify=False).status_code
        except httpx.TransportError:
            return None

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if line.startswith("ready: "):
                self.url = line.split()[1]
                self._ready.set()
        self._ready.set()


def wait_until(there: Callable[[], object]) -> None:
    """Look until something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not there():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
