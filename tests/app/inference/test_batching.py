"""Batches of decoded images, and which thread computes them."""

import itertools
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import torch

from app.inference.batching import BatchQueue
from app.inference.images import DecodedImage, QueuedImage
from models.images import Decoded
from models.runtimes.streams import Streams
from tests.app.inference.conftest import PATIENCE_S, SMALL, VERSION, wait_until

STREAMED = UUID(int=7)  # the version that is computed in streams


@pytest.fixture
def admission():
    return SimpleNamespace(images=0)


@pytest.fixture
def batches(admission) -> BatchQueue:
    """For a thread with all cores and two streams that take three images at a time."""
    streams = Streams(lambda images: images, number=2, batch=3, images_per_s=1e3)
    loaded = {STREAMED: SimpleNamespace(streams=streams)}
    encoders: Any = SimpleNamespace(find=loaded.get)
    return BatchQueue(encoders, admission, threads=3, max_batch=4)


@pytest.fixture
def put(batches, admission):
    """Puts an image into the queue."""
    numbers = itertools.count()

    def make(version=VERSION, due=0.0, is_cancelled=lambda: False) -> DecodedImage:
        queued = QueuedImage(due, next(numbers), version, b"", SMALL, is_cancelled, Future())
        image = DecodedImage(queued, Decoded(torch.zeros(3, 1, 1), "image/png", 1, 1), 0.0)
        admission.images += 1
        batches.put(image)
        return image

    return make


def test_a_batch_is_what_is_decoded_up_to_the_largest(batches, put):
    images = [put() for _ in range(5)]

    assert batches.take(0) == images[:4]
    assert len(batches) == 1
    assert batches.take(0) == images[4:]


def test_what_is_due_first_goes_first(batches, put):
    bulk = [put(due=30.0) for _ in range(3)]
    prompt = [put(due=1.0), put(due=1.0)]
    late = put(due=31.0)

    assert batches.take(0) == [*prompt, *bulk[:2]]
    assert batches.take(0) == [bulk[2], late]


def test_batches_never_mix_versions(batches, put):
    versions = [UUID(int=n) for n in (1, 2, 2, 1)]
    images = [put(version) for version in versions]

    assert [batches.take(0) for _ in range(3)] == [images[:1], images[1:3], images[3:]]


def test_images_that_nobody_waits_for_are_cancelled(batches, put):
    image, cancelled = put(), put(is_cancelled=lambda: True)

    assert batches.take(0) == [image]
    assert cancelled.queued.outcome.cancelled()
    put(is_cancelled=lambda: True)
    assert batches.take(0) == []


def test_an_image_alone_is_for_the_thread_with_all_cores_and_more_for_streams(batches, put):
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(batches.take, n) for n in range(3)]
        wait_until(lambda: batches._idle == {0, 1, 2})
        alone = put(STREAMED)
        assert waiting[0].result(PATIENCE_S) == [alone]

        images = [put(STREAMED) for _ in range(2)]
        batches.close()  # one stream may have taken both
        streamed = [image for future in waiting[1:] for image in future.result(PATIENCE_S) or []]

    assert sorted(streamed) == images


def test_a_stream_takes_what_is_best_for_it(batches, put):
    images = [put(STREAMED) for _ in range(5)]

    assert (batches.take(1), batches.take(2)) == (images[:3], images[3:])


def test_what_is_not_computed_in_streams_wakes_the_thread_with_all_cores(batches, put):
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(batches.take, n) for n in range(3)]
        wait_until(lambda: batches._idle == {0, 1, 2})

        image = put(VERSION)

        assert waiting[0].result(PATIENCE_S) == [image]
        assert batches._idle == {1, 2}
        batches.close()
        assert [future.result(PATIENCE_S) for future in waiting[1:]] == [None, None]


def test_threads_end_when_nothing_is_left(batches, put):
    image = put()
    with ThreadPoolExecutor(2) as threads:
        stream = threads.submit(batches.take, 1)
        wait_until(lambda: 1 in batches._idle)
        batches.close()

        assert stream.result(PATIENCE_S) is None
        assert (batches.take(0), batches.take(0)) == ([image], None)
