"""Where runtimes keep what they converted, and what they convert."""

from pathlib import Path
from typing import Any

import pytest

from models.encoders import Encoder
from models.runtimes import Resources
from models.runtimes.graph_cache import fingerprint
from models.runtimes.kinds import onnxruntime, openvino
from tests.models.runtimes.reference import Clock


@pytest.fixture(scope="session")
def converted() -> dict[str, tuple[Encoder, Any]]:
    """What encoders became; a conversion takes seconds, also of a tiny one."""
    return {}


@pytest.fixture
def conversions(monkeypatch, converted) -> list[Encoder]:
    """The encoders that were converted; none is twice in truth."""
    asked = []

    def count(convert, arguments):
        encoder = arguments[-1]
        asked.append(encoder)
        key = fingerprint(encoder, convert.__module__)
        if key not in converted:
            converted[key] = (encoder, convert(*arguments))  # which may share its weights
        return converted[key][1]

    for module in (onnxruntime, openvino):
        monkeypatch.setattr(
            module, "_convert", lambda *args, convert=module._convert: count(convert, args)
        )
    return asked


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    return Resources(threads=1, batch=4, cache=tmp_path / "runtimes")


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """By which trials measure."""
    clock = Clock()
    monkeypatch.setattr("models.runtimes.trial.time", clock)
    monkeypatch.setattr("models.runtimes.streams.time", clock)
    return clock
