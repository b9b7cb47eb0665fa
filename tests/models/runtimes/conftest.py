"""Where runtimes keep what they converted, and what they convert."""

from pathlib import Path

import pytest

from models.encoders import Encoder
from models.runtimes import Resources
from models.runtimes.kinds import onnxruntime, openvino
from tests.models.runtimes.reference import Clock


@pytest.fixture
def conversions(monkeypatch) -> list[Encoder]:
    """The encoders that were converted."""
    converted = []

    def count(convert, arguments):
        converted.append(arguments[-1])
        return convert(*arguments)

    for module in (onnxruntime, openvino):
        monkeypatch.setattr(
            module, "_convert", lambda *args, convert=module._convert: count(convert, args)
        )
    return converted


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
