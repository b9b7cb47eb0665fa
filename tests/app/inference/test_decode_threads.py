"""Threads that decode image files."""

from concurrent.futures import CancelledError, Future
from types import SimpleNamespace
from typing import Any

import pytest

from app.inference.decode_threads import DecodeThreads
from app.inference.images import QueuedImage
from app.problems import ImageNotDecodable
from tests.app.inference.conftest import PATIENCE_S, SMALL, VERSION


@pytest.fixture
def decoded() -> list:
    """The images that were decoded, in that order."""
    return []


@pytest.fixture
def decoders(decoded, metrics):
    """Threads that are not started yet; ended and joined at the end."""

    batches: Any = SimpleNamespace(put=decoded.append)
    decoders = DecodeThreads(batches, number=1, max_pixels=1 << 20, metrics=metrics)
    yield decoders
    decoders.close()
    for thread in decoders.threads:
        thread.join()


def queued(content: bytes, number: int = 0, due: float = 0.0, is_cancelled=lambda: False):
    return QueuedImage(due, number, VERSION, content, SMALL, is_cancelled, Future())


def run(decoders, *images: QueuedImage) -> None:
    """Decode images, and wait for the threads to end."""
    for image in images:
        decoders.put(image)
    decoders.close()
    for thread in decoders.threads:
        thread.start()
    for thread in decoders.threads:
        thread.join(PATIENCE_S)


def test_what_is_due_first_is_decoded_first_and_all_before_the_end(decoders, decoded, png):
    late, first, second = (queued(png("blue"), n, due) for n, due in enumerate((9.0, 1.0, 1.0)))

    run(decoders, late, second, first)

    assert [image.queued for image in decoded] == [first, second, late]
    assert decoded[0].decoded[1:] == ("image/png", 20, 20)


def test_images_that_nobody_waits_for_are_not_decoded(decoders, decoded, png, metrics):
    cancelled, image = queued(png("red"), is_cancelled=lambda: True), queued(png("blue"), 1)

    run(decoders, cancelled, image)

    assert [image.queued for image in decoded] == [image]
    with pytest.raises(CancelledError):
        cancelled.outcome.result(PATIENCE_S)


def test_a_file_that_is_no_image_fails_alone(decoders, decoded, png):
    bad, good = queued(b"no image"), queued(png("lime"), 1)

    run(decoders, bad, good)

    problem = bad.outcome.result(PATIENCE_S)
    assert isinstance(problem, ImageNotDecodable)
    assert "not an image" in problem.detail
    assert [image.queued for image in decoded] == [good]


def test_an_image_that_breaks_the_decoder_fails_alone(decoders, decoded, png, monkeypatch):
    def explode(*_: object, **__: object) -> None:
        raise MemoryError("out of luck")

    monkeypatch.setattr("app.inference.decode_threads.decode", explode)
    bad = queued(png("lime"))

    run(decoders, bad)

    assert "out of luck" in bad.outcome.result(PATIENCE_S).detail
    assert decoders.threads[0].ailment(PATIENCE_S).endswith("has ended: None")
