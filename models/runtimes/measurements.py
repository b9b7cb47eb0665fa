"""This machine, and what was measured on it before."""

import hashlib
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from models.files import replace_file

BUSY = 0.5  # of the cores, in the last minute, from which on timings mislead


LIBRARIES = ("torch", "openvino", "onnxruntime")  # how fast they are changes with their versions


def processor() -> str:
    """Its name, as Linux has it, or else its kind."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def is_busy() -> bool:
    """Whether the cores have had so much to do lately that timings mislead."""
    return os.getloadavg()[0] > BUSY * (os.cpu_count() or 1) if hasattr(os, "getloadavg") else False


class Measurements:
    """Findings that hold for this machine and these versions of libraries, one JSON file each.

    Args:
        folder: where they are kept; None: nowhere.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def find(self, *of: str) -> Any:
        """What was measured of something, named by words; None: nothing, or it cannot be read."""
        try:
            return json.loads(self._file(of).read_text()) if self._folder else None
        except (OSError, ValueError):
            return None

    def keep(self, measurement: Any, *of: str) -> None:
        """Remember what was measured of something, where there is room."""
        if self._folder is None:
            return
        try:
            replace_file(self._file(of), json.dumps(measurement).encode())
        except OSError:
            return  # it is measured anew next time

    def _file(self, of: tuple[str, ...]) -> Path:
        assert self._folder
        name = hashlib.sha256("\n".join([*_described(), *of]).encode()).hexdigest()
        return self._folder / f"{name}.json"


def _described() -> list[str]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return [processor(), f"{os.cpu_count()} cores", gpu, *(_version(name) for name in LIBRARIES)]


def _version(library: str) -> str:
    try:
        return f"{library} {importlib.metadata.version(library)}"
    except importlib.metadata.PackageNotFoundError:
        return f"no {library}"
