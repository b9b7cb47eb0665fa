"""Batches computed at once, each by one thread."""

import threading

import pytest
import torch

from models.runtimes.streams import speed_of_streams
from tests.models.runtimes.reference import make_encoder


@pytest.mark.parametrize("streams", [1, 4])
def test_speed_of_streams_is_that_of_all(clock, streams):
    def advance() -> None:
        clock.now += 0.02

    together = threading.Barrier(streams, action=advance)  # each has a batch in work

    def embed(images: torch.Tensor) -> torch.Tensor:
        together.wait(60)
        return images

    speed = speed_of_streams(embed, make_encoder(), 4, streams)

    assert speed == pytest.approx(4 * streams / 0.02)
