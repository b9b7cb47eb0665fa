"""Images that are admitted, decoded, put into batches and embedded."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
import torch

from app.inference import decode_threads
from app.inference.embedder import BULK_PATIENCE_S, RequestCancelled
from app.inference.images import Embedded
from app.problems import ImageNotDecodable, Overloaded, Unavailable
from models.encoders import Encoder
from models.images import Decoded, decode
from tests.app.inference.conftest import PATIENCE_S, VERSION, MeanColour, encoder_of, wait_until


@pytest.fixture
def hold(network, png):
    """Holds the network up with an image, so that what comes meanwhile waits."""
    network.gate.clear()

    def make(embedder, threads):
        first = threads.submit(embedder.embed, VERSION, [png("blue")])
        assert network.entered.wait(PATIENCE_S)
        return first

    return make


@pytest.fixture
def green(network) -> list[int]:
    """The green images of each batch."""
    counts = []

    def count(_: object, __: object, colours: torch.Tensor) -> None:
        counts.append(int((colours[:, 1] > 0.9).sum()))

    network.register_forward_hook(count)
    return counts


def test_embeds_in_the_order_of_the_request(start, png):
    outcomes = start().embed(VERSION, [png("blue"), png("lime"), png("blue")])

    assert [int(outcome.vector.argmax()) for outcome in outcomes] == [2, 1, 2]
    assert {outcome.vector.dtype for outcome in outcomes} == {torch.float16}
    assert outcomes[0][1:] == ("image/png", 20, 20)


def test_a_file_that_is_no_image_fails_alone(start, png):
    good, bad, also_good = start().embed(VERSION, [png("blue"), b"no image", png("lime")])

    assert isinstance(good, Embedded)
    assert isinstance(also_good, Embedded)
    assert isinstance(bad, ImageNotDecodable)


def test_requests_that_arrive_together_share_a_forward_pass(start, network, hold, png):
    embedder = start()
    with ThreadPoolExecutor(9) as threads:
        first = hold(embedder, threads)
        together = [threads.submit(embedder.embed, VERSION, [png("blue", n)]) for n in range(8)]
        wait_until(lambda: len(embedder._batches) == 8)
        network.gate.set()
        for future in [first, *together]:
            assert isinstance(future.result()[0], Embedded)

    assert network.batches == [1, 8]


def test_what_comes_meanwhile_goes_before_an_upload_in_bulk(start, network, hold, green, png):
    embedder = start(max_batch=4)
    with ThreadPoolExecutor(3) as threads:
        first = hold(embedder, threads)
        many = [png("blue", n) for n in range(10)]
        bulk = threads.submit(embedder.embed, VERSION, many, bulk=True)
        wait_until(lambda: len(embedder._batches) == 10)
        prompt = threads.submit(embedder.embed, VERSION, [png("lime", n) for n in range(3)])
        wait_until(lambda: len(embedder._batches) == 13)
        network.gate.set()
        for future in (first, bulk, prompt):
            future.result()

    assert network.batches == [1, 4, 4, 4, 1]
    assert green == [0, 3, 0, 0, 0]


def test_an_upload_in_bulk_does_not_wait_for_ever(
    start, network, hold, green, png, clock, monkeypatch
):
    monkeypatch.setattr("app.inference.embedder.time", clock)
    embedder = start(max_batch=4)
    with ThreadPoolExecutor(3) as threads:
        first = hold(embedder, threads)
        many = [png("blue", n) for n in range(4)]
        bulk = threads.submit(embedder.embed, VERSION, many, bulk=True)
        wait_until(lambda: len(embedder._batches) == 4)
        clock.seconds += BULK_PATIENCE_S + 1
        prompt = threads.submit(embedder.embed, VERSION, [png("lime", n) for n in range(4)])
        wait_until(lambda: len(embedder._batches) == 8)
        network.gate.set()
        for future in (first, bulk, prompt):
            future.result()

    assert green == [0, 0, 4]


def test_images_that_nobody_waits_for_do_not_reach_the_network(start, network, hold, png):
    embedder, disconnected = start(), threading.Event()
    with ThreadPoolExecutor(3) as threads:
        first = hold(embedder, threads)
        pictures = [png("red", n) for n in range(3)]
        cancelled = threads.submit(
            embedder.embed, VERSION, pictures, is_cancelled=disconnected.is_set
        )
        wait_until(lambda: len(embedder._batches) == 3)
        last = threads.submit(embedder.embed, VERSION, [png("blue"), png("lime")])
        wait_until(lambda: len(embedder._batches) == 5)
        disconnected.set()
        network.gate.set()
        with pytest.raises(RequestCancelled):
            cancelled.result()
        assert isinstance(first.result()[0], Embedded)
        assert [int(outcome.vector.argmax()) for outcome in last.result()] == [2, 1]

    assert network.batches == [1, 2]


@pytest.mark.parametrize("limit", [{"images": 2}, {"size": 200}])
def test_a_full_queue_turns_away_until_there_is_room(start, network, png, limit):
    embedder = start(**limit)
    network.gate.clear()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(embedder.embed, VERSION, [png("blue"), png("lime")])
        assert network.entered.wait(PATIENCE_S)

        with pytest.raises(Overloaded):
            embedder.embed(VERSION, [png("blue", 1)])

        network.gate.set()
        first.result()
    assert isinstance(embedder.embed(VERSION, [png("blue", 1)])[0], Embedded)


def test_who_waits_for_room_gets_it(start, network, hold, png):
    embedder = start(images=1)
    with ThreadPoolExecutor(2) as threads:
        first = hold(embedder, threads)
        second = threads.submit(embedder.embed, VERSION, [png("lime")], wait=True)
        network.gate.set()

        assert isinstance(first.result()[0], Embedded)
        assert isinstance(second.result()[0], Embedded)


def test_it_learns_how_long_images_take(start, network, png, clock, monkeypatch):
    monkeypatch.setattr("app.inference.admission.time", clock)

    def take_time(*_: object) -> None:
        clock.seconds += 0.4

    network.register_forward_pre_hook(take_time)
    embedder = start(delay_s=1.0)
    for n in range(3):
        embedder.embed(VERSION, [png("blue", n)])
        wait_until(lambda: embedder._admission._last_answer == clock.seconds)

    assert not embedder.admission.is_too_late(1)
    assert embedder.admission.is_too_late(3)
    assert embedder.admission.overloaded(6).retry_after == 2


@pytest.mark.parametrize("thread", ["decode", "model"])
def test_a_thread_that_died_is_an_ailment_and_nobody_waits_for_it(start, monkeypatch, png, thread):
    monkeypatch.setattr("app.inference.embedder.LIFE_CHECK_S", 0.01)
    embedder = start(decode_threads=1)

    def die(*_: object, **__: object) -> None:
        raise SystemExit("out of luck")

    if thread == "decode":
        monkeypatch.setattr("app.inference.decode_threads.decode", die)
    else:
        monkeypatch.setattr(embedder._models, "_forward", die)

    with pytest.raises(Unavailable):
        embedder.embed(VERSION, [png("blue")])

    assert "has ended: SystemExit('out of luck')" in embedder.ailments()[0]
    with pytest.raises(Unavailable):
        embedder.embed(VERSION, [png("blue")])


def test_what_was_admitted_is_finished_before_the_end(start, network, hold, png):
    embedder = start()
    with ThreadPoolExecutor(2) as threads:
        waiting = hold(embedder, threads)
        stopping = threads.submit(embedder.__exit__)
        wait_until(lambda: embedder._admission.is_stopping)
        with pytest.raises(Unavailable):
            embedder.embed(VERSION, [png("lime")])
        network.gate.set()

        assert isinstance(waiting.result()[0], Embedded)
        stopping.result()
    assert not any(thread.is_alive() for thread in embedder._threads)


def test_what_is_still_being_decoded_at_the_end_is_embedded(start, network, hold, png, monkeypatch):
    embedder = start()
    entered, gate = threading.Event(), threading.Event()

    def decode_late(*arguments: Any, **options: Any) -> Decoded:
        entered.set()
        assert gate.wait(PATIENCE_S)
        return decode(*arguments, **options)

    with ThreadPoolExecutor(3) as threads:
        first = hold(embedder, threads)
        monkeypatch.setattr(decode_threads, "decode", decode_late)
        second = threads.submit(embedder.embed, VERSION, [png("lime")])
        assert entered.wait(PATIENCE_S)
        stopping = threads.submit(embedder.__exit__)
        wait_until(lambda: embedder._admission.is_stopping)
        network.gate.set()
        assert isinstance(first.result()[0], Embedded)
        wait_until(lambda: embedder._batches._idle == {0})
        gate.set()

        assert isinstance(second.result()[0], Embedded)
        stopping.result()


def test_versions_used_longest_ago_are_forgotten(start, png):
    loaded = []

    def load(version: UUID) -> Encoder:
        loaded.append(version)
        return encoder_of(MeanColour())

    embedder = start(load=load, encoders_in_memory=2)
    first, second, third = (UUID(int=n) for n in range(3))

    for version in (first, second, first, third, first, second):
        embedder.embed(version, [png("blue")])

    assert loaded == [first, second, third, second]
    assert isinstance(embedder.encoder(second), Encoder)


def test_batches_never_mix_versions(start, png):
    networks = {UUID(int=n): MeanColour() for n in range(2)}
    embedder = start(load=lambda version: encoder_of(networks[version]))
    slow, fast = networks
    networks[slow].gate.clear()
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(embedder.embed, slow, [png("blue")])
        assert networks[slow].entered.wait(PATIENCE_S)
        later = [
            threads.submit(embedder.embed, version, [png("lime", n) for n in range(3)])
            for version in (fast, slow)
        ]
        wait_until(lambda: len(embedder._batches) == 6)
        networks[slow].gate.set()
        for future in [first, *later]:
            assert all(isinstance(outcome, Embedded) for outcome in future.result())

    assert sum(networks[slow].batches) == 4
    assert sum(networks[fast].batches) == 3
