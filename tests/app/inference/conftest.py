"""Embedders on a network that can be held up, and a clock that stands still."""

import threading
import time
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
import torch
from prometheus_client import CollectorRegistry
from torch import nn

from app.inference.admission import AdmissionLimits
from app.inference.embedder import Embedder
from app.inference.metrics import InferenceMetrics
from models.encoders import Encoder
from models.images import Preprocessing
from models.runtimes import Resources
from models.runtimes.selector import RuntimeSelector

SMALL = Preprocessing(resize=16, crop=16, mean=(0.0,) * 3, std=(1.0,) * 3)
VERSION = uuid4()
PATIENCE_S = 60.0  # with a machine that has much else to do; nothing takes that long


class MeanColour(nn.Module):
    """Embeds an image as its mean colour; can be held up, and fails on pictures too red."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.batches: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(images))
        self.entered.set()
        assert self.gate.wait(PATIENCE_S)
        colours = images.mean((2, 3))
        if (colours[:, 0] > 0.99).any():
            raise RuntimeError("too red")
        return colours


class Clock:
    """Stands in for the module `time` where a test says how late it is."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds

    perf_counter = monotonic


def encoder_of(network: nn.Module) -> Encoder:
    """An encoder of small pictures."""
    return Encoder([network], embedding_dim=3, preprocessing=SMALL)


def wait_until(condition: Callable[[], object]) -> None:
    """Return when a condition holds that no event tells of."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.001)


@pytest.fixture
def network() -> MeanColour:
    return MeanColour()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics() -> InferenceMetrics:
    return InferenceMetrics(CollectorRegistry())


@pytest.fixture
def start(network, metrics, monkeypatch):
    """Starts embedders, and stops them; their streams take an image at a time."""
    monkeypatch.setattr("models.runtimes.selector.speed_of_streams", lambda *_: 1e3)
    running = []

    def load(_: UUID) -> Encoder:
        return encoder_of(network)

    def make(
        load=load, images: int = 100, size: int = 1 << 20, delay_s: float = 10.0, **changes
    ) -> Embedder:
        options = {
            "max_batch": 8,
            "max_pixels": 1 << 20,
            "decode_threads": 2,
            "encoders_in_memory": 2,
            "stall_s": PATIENCE_S,
            "metrics": metrics,
        }
        selector = RuntimeSelector("pytorch", Resources(threads=changes.get("threads", 1), batch=8))
        limits = AdmissionLimits(images, size, delay_s)
        embedder = Embedder(load, selector, limits, **(options | changes))
        running.append(embedder.__enter__())
        return embedder

    yield make
    network.gate.set()
    for embedder in running:
        embedder.__exit__()
    torch.set_num_threads(1)
