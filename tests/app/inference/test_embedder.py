"""Batched inference."""

import gc
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
import torch
from prometheus_client import CollectorRegistry
from torch import nn

from app.inference import embedder as inference
from app.inference.embedder import Embedded, Embedder, RequestCancelled
from app.inference.metrics import InferenceMetrics
from app.inference.process import look_past_what_stays
from app.problems import ImageNotDecodable, InferenceFailed, Overloaded, Unavailable
from models.encoders import Encoder
from models.images import Preprocessing
from models.runtimes import Resources
from models.runtimes.selector import RuntimeSelector
from models.runtimes.streams import COMPUTING_NICENESS

SMALL = Preprocessing(resize=16, crop=16, mean=(0.0,) * 3, std=(1.0,) * 3)
VERSION = uuid4()


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
        assert self.gate.wait(20)
        colours = images.mean((2, 3))
        if (colours[:, 0] > 0.99).any():
            raise RuntimeError("too red")
        return colours


@pytest.fixture
def network() -> MeanColour:
    return MeanColour()


@pytest.fixture
def start(network, monkeypatch):
    """Starts embedders with limits of one's own, and stops them; lanes take an image at a time."""
    monkeypatch.setattr("models.runtimes.selector.speed_of_streams", lambda *_: 1e3)
    running = []

    def load(_: UUID) -> Encoder:
        return Encoder([network], embedding_dim=3, preprocessing=SMALL)

    def make(**changes) -> Embedder:
        options = {
            "max_batch": 8,
            "max_images": 100,
            "max_bytes": 1 << 20,
            "max_delay_s": 10.0,
            "max_pixels": 1 << 20,
            "decode_threads": 2,
            "encoders_in_memory": 2,
            "stall_s": 5.0,
            "metrics": InferenceMetrics(CollectorRegistry()),
        }
        resources = Resources(threads=changes.get("threads", 1), batch=8)
        chooser = RuntimeSelector("pytorch", resources)
        embedder = Embedder(changes.pop("load", load), chooser, **(options | changes))
        running.append(embedder.__enter__())
        return embedder

    yield make
    network.gate.set()
    for embedder in running:
        embedder.__exit__()
    torch.set_num_threads(1)


def test_embeds_in_the_order_of_the_request(start, png):
    outcomes = start().embed(VERSION, [png("blue"), png("lime"), png("blue")])

    assert [int(outcome.vector.argmax()) for outcome in outcomes] == [2, 1, 2]
    assert {outcome.vector.dtype for outcome in outcomes} == {torch.float16}
    assert outcomes[0][1:] == ("image/png", 20, 20)


def test_only_the_model_thread_computes_with_many_threads(start, network, png):
    seen = []
    network.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    embedder = start(threads=3)

    embedder.embed(VERSION, [png("blue")])
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(torch.get_num_threads).result()

    assert (seen, other) == ([3], 1)


def test_an_image_alone_is_computed_with_all_threads_and_more_in_lanes(start, network, png):
    seen = []
    embedder = start(threads=2, warm_up=VERSION)
    _wait(lambda: embedder._idle == {0, 1, 2, 3})
    both = threading.Barrier(2, timeout=10)

    def look(*_: object) -> None:
        seen.append((threading.current_thread().name, torch.get_num_threads()))
        if seen[-1][0] != "model":
            both.wait()  # neither lane goes on without the other

    network.register_forward_hook(look)

    embedder.embed(VERSION, [png("blue")])
    assert seen == [("model", 2)]
    outcomes = embedder.embed(VERSION, [png("blue", n) for n in range(2)])

    assert all(isinstance(outcome, Embedded) for outcome in outcomes)
    assert {threads for _, threads in seen[1:]} == {1}
    assert len({name for name, _ in seen[1:]} - {"model"}) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_threads_that_compute_yield_to_those_that_answer(start, network, png):
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    seen, own = [], priority()
    network.register_forward_hook(lambda *_: seen.append(priority()))

    start().embed(VERSION, [png("blue")])

    assert seen == [own + COMPUTING_NICENESS]
    assert priority() == own


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_a_thread_that_only_waits_for_others_that_compute_does_not_yield(
    start, network, png, monkeypatch
):
    monkeypatch.setattr("models.runtimes.kinds.pytorch.PyTorch.in_caller", False)
    seen, own = [], os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    network.register_forward_hook(
        lambda *_: seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    )

    start().embed(VERSION, [png("blue")])

    assert seen == [own]


def test_lanes_and_the_model_thread_lose_nothing_between_them(start, network, png):
    embedder = start(threads=3, warm_up=VERSION)
    assert embedder.warm.wait(10)
    colours = ["blue", "lime"]

    def one(n: int) -> bool:
        outcomes = embedder.embed(VERSION, [png(colours[n % 2], n)] * (1 + n % 3))
        return {int(o.vector.argmax()) for o in outcomes} == {2 - n % 2}

    with ThreadPoolExecutor(5) as threads:
        assert all(threads.map(one, range(300), timeout=60))


def test_it_knows_its_speed_before_the_first_request(start, network):
    network.register_forward_pre_hook(lambda *_: time.sleep(0.1))
    embedder = start(warm_up=VERSION, max_batch=1, max_delay_s=1.0)
    assert not embedder.is_too_late(1000)

    assert embedder.warm.wait(10)

    assert not embedder.is_too_late(2)
    assert embedder.is_too_late(4)


def test_lanes_that_end_together_do_not_seem_slow(start, monkeypatch):
    embedder, now = start(max_delay_s=10.0), [100.0]
    monkeypatch.setattr("app.inference.time.monotonic", lambda: now[0])
    embedder._busy_since = 100.0
    for _ in range(20):  # three batches of 16 at once, every second: 48 images a second
        now[0] += 1.0
        for _ in range(3):
            embedder._learn_speed(16)

    assert not embedder.is_too_late(280)  # 5.8 s
    assert embedder.is_too_late(300)  # 6.3 s, of 10 at most with caution


def test_what_stays_is_left_out_of_garbage_collection():
    try:
        look_past_what_stays()
        assert gc.get_freeze_count() > 1000
    finally:
        gc.unfreeze()


def test_it_is_warm_when_each_batch_size_ran(start, network, png):
    network.gate.clear()
    embedder = start(warm_up=VERSION, max_batch=6)
    assert network.entered.wait(10)
    assert not embedder.warm.is_set()

    network.gate.set()

    assert embedder.warm.wait(10)
    assert network.batches == [1, 1, 2, 2, 4, 4]
    assert isinstance(embedder.embed(VERSION, [png("blue")])[0], Embedded)


def test_a_network_that_cannot_warm_up_is_an_ailment(start, network, png):
    def broken(_: UUID) -> Encoder:
        raise RuntimeError("out of memory")

    embedder = start(load=broken, warm_up=VERSION)
    _wait(embedder.ailments)

    assert "out of memory" in embedder.ailments()[0]
    assert not embedder.warm.is_set()


def test_requests_that_arrive_together_share_a_forward_pass(start, network, png):
    embedder = start()
    network.gate.clear()
    with ThreadPoolExecutor(9) as threads:
        first = threads.submit(embedder.embed, VERSION, [png("blue")])
        assert network.entered.wait(10)
        others = [threads.submit(embedder.embed, VERSION, [png("blue", n)]) for n in range(8)]
        _wait(lambda: len(embedder._ready) == 8)
        network.gate.set()
        for future in [first, *others]:
            assert isinstance(future.result()[0], Embedded)

    assert network.batches == [1, 8]


def test_what_comes_meanwhile_goes_before_an_upload_in_bulk(start, network, png):
    green = []  # images of each batch
    network.register_forward_hook(lambda *told: green.append(int((told[2][:, 1] > 0.9).sum())))
    embedder = start(max_batch=4)
    network.gate.clear()
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(embedder.embed, VERSION, [png("blue")])
        assert network.entered.wait(10)
        many = [png("blue", n) for n in range(10)]
        bulk = threads.submit(embedder.embed, VERSION, many, bulk=True)
        _wait(lambda: len(embedder._ready) == 10)
        prompt = threads.submit(embedder.embed, VERSION, [png("lime", n) for n in range(3)])
        _wait(lambda: len(embedder._ready) == 13)
        network.gate.set()
        for future in (first, bulk, prompt):
            future.result()

    assert network.batches == [1, 4, 4, 4, 1]
    assert green == [0, 3, 0, 0, 0]


def test_an_upload_in_bulk_does_not_wait_for_ever(start, network, png, monkeypatch):
    monkeypatch.setattr(inference, "BULK_PATIENCE_S", 0.1)
    green = []
    network.register_forward_hook(lambda *told: green.append(int((told[2][:, 1] > 0.9).sum())))
    embedder = start(max_batch=4)
    network.gate.clear()
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(embedder.embed, VERSION, [png("blue")])
        assert network.entered.wait(10)
        bulk = threads.submit(
            embedder.embed, VERSION, [png("blue", n) for n in range(4)], bulk=True
        )
        _wait(lambda: len(embedder._ready) == 4)
        time.sleep(0.2)
        prompt = threads.submit(embedder.embed, VERSION, [png("lime", n) for n in range(4)])
        _wait(lambda: len(embedder._ready) == 8)
        network.gate.set()
        for future in (first, bulk, prompt):
            future.result()

    assert green == [0, 0, 4]


def test_images_that_nobody_waits_for_do_not_reach_the_network(start, network, png):
    embedder, gone = start(), threading.Event()
    network.gate.clear()
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(embedder.embed, VERSION, [png("blue")])
        assert network.entered.wait(10)
        left = threads.submit(
            embedder.embed, VERSION, [png("red", n) for n in range(3)], given_up=gone.is_set
        )
        _wait(lambda: len(embedder._ready) == 3)
        last = threads.submit(embedder.embed, VERSION, [png("blue"), png("lime")])
        _wait(lambda: len(embedder._ready) == 5)
        gone.set()
        network.gate.set()
        with pytest.raises(RequestCancelled):
            left.result()
        assert isinstance(first.result()[0], Embedded)
        assert [int(outcome.vector.argmax()) for outcome in last.result()] == [2, 1]

    assert network.batches == [1, 2]


def test_images_that_nobody_waits_for_are_not_decoded(start, network, png, monkeypatch):
    decoded = []
    decode = inference.decode
    monkeypatch.setattr(
        inference, "decode", lambda *given, **more: decoded.append(1) or decode(*given, **more)
    )
    embedder = start()

    with pytest.raises(RequestCancelled):
        embedder.embed(VERSION, [png("red"), png("blue")], given_up=lambda: True)
    embedder.embed(VERSION, [png("lime")])

    assert (network.batches, decoded) == ([1], [1])


def test_bulk_leaves_room_for_others(start, network, png):
    embedder = start(max_images=8)
    network.gate.clear()
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(embedder.embed, VERSION, [png("blue")])
        assert network.entered.wait(10)
        bulk = threads.submit(
            embedder.embed, VERSION, [png("blue", n) for n in range(5)], bulk=True
        )
        _wait(lambda: len(embedder._ready) == 5)

        with pytest.raises(Overloaded):
            embedder.embed(VERSION, [png("blue", 9)], bulk=True)
        prompt = threads.submit(embedder.embed, VERSION, [png("lime"), png("lime", 1)])

        network.gate.set()
        for future in (first, bulk, prompt):
            assert isinstance(future.result()[0], Embedded)


def test_images_that_would_wait_too_long_are_turned_away_with_the_time_to_come_again(
    start, network, png
):
    embedder = start(max_delay_s=1.0)
    network.register_forward_pre_hook(lambda *_: time.sleep(0.4))
    for n in range(3):
        embedder.embed(VERSION, [png("blue", n)])  # it learns that an image takes 0.4 s
    assert not embedder.is_too_late(1)
    assert embedder.is_too_late(3)
    network.gate.clear()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(embedder.embed, VERSION, [png("blue")])
        _wait(lambda: embedder._prompt == 1)

        with pytest.raises(Overloaded) as caught:
            embedder.embed(VERSION, [png("blue", n) for n in range(5)])

        bulk = threads.submit(
            embedder.embed, VERSION, [png("lime", n) for n in range(5)], bulk=True
        )
        network.gate.set()
        first.result()
        bulk.result()
    assert 1 <= caught.value.retry_after <= 4
    assert isinstance(embedder.embed(VERSION, [png("blue", n) for n in range(5)])[0], Embedded)


def test_a_file_that_is_no_image_fails_alone(start, png):
    good, bad, also_good = start().embed(VERSION, [png("blue"), b"no image", png("lime")])

    assert isinstance(good, Embedded)
    assert isinstance(also_good, Embedded)
    assert isinstance(bad, ImageNotDecodable)
    assert "not an image" in bad.detail


def test_an_image_that_fails_the_network_fails_alone(start, network, png):
    embedder = start()
    network.gate.clear()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(embedder.embed, VERSION, [png("blue")])
        assert network.entered.wait(10)
        pictures = [png("blue", n) for n in range(5)] + [png("red")] + [png("lime")]
        future = threads.submit(embedder.embed, VERSION, pictures)
        _wait(lambda: len(embedder._ready) == 7)
        network.gate.set()
        first.result()
        outcomes = future.result()

    assert [isinstance(outcome, Embedded) for outcome in outcomes] == [True] * 5 + [False, True]
    assert isinstance(outcomes[5], InferenceFailed)
    assert "too red" in outcomes[5].detail
    assert network.batches[1] == 7


def test_numbers_that_are_not_finite_are_a_failure(start, png):
    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3)) / 0

    encoder = Encoder([Broken()], embedding_dim=3, preprocessing=SMALL)

    (outcome,) = start(load=lambda _: encoder).embed(VERSION, [png("blue")])

    assert isinstance(outcome, InferenceFailed)


@pytest.mark.parametrize("limit", [{"max_images": 2}, {"max_bytes": 200}])
def test_a_full_queue_turns_away_with_a_time_to_come_again(start, network, png, limit):
    embedder = start(**limit)
    network.gate.clear()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(embedder.embed, VERSION, [png("blue"), png("lime")])
        assert network.entered.wait(10)

        with pytest.raises(Overloaded) as caught:
            embedder.embed(VERSION, [png("blue", 1)])

        network.gate.set()
        first.result()
    assert caught.value.status == 429
    assert caught.value.retry_after == 1
    assert isinstance(embedder.embed(VERSION, [png("blue", 1)])[0], Embedded)


def test_a_request_larger_than_the_queue_goes_through_alone(start, png):
    outcomes = start(max_images=2).embed(VERSION, [png("blue", n) for n in range(5)])

    assert all(isinstance(outcome, Embedded) for outcome in outcomes)


def test_who_waits_for_room_gets_it(start, network, png):
    embedder = start(max_images=1)
    network.gate.clear()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(embedder.embed, VERSION, [png("blue")])
        assert network.entered.wait(10)
        second = threads.submit(embedder.embed, VERSION, [png("lime")], wait=True)
        time.sleep(0.1)
        assert not second.done()
        network.gate.set()

        assert isinstance(first.result()[0], Embedded)
        assert isinstance(second.result(timeout=10)[0], Embedded)


def test_a_thread_that_stands_still_is_an_ailment(start, network, png):
    embedder = start(stall_s=0.05)
    network.gate.clear()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(embedder.embed, VERSION, [png("blue")])
        assert network.entered.wait(10)
        time.sleep(0.1)

        assert "thread model has been busy" in embedder.ailments()[0]

        network.gate.set()
        waiting.result()
    _wait(lambda: embedder.ailments() == [])


@pytest.mark.parametrize("thread", ["decode", "model"])
def test_a_thread_that_died_is_an_ailment_and_nobody_waits_for_it(start, monkeypatch, png, thread):
    embedder = start(decode_threads=1)

    def die(*_: object, **__: object) -> None:
        raise SystemExit("out of luck")

    if thread == "decode":
        monkeypatch.setattr(inference, "decode", die)
    else:
        monkeypatch.setattr(embedder, "_forward", die)

    with pytest.raises(Unavailable):
        embedder.embed(VERSION, [png("blue")])

    assert "has ended: SystemExit('out of luck')" in embedder.ailments()[0]
    with pytest.raises(Unavailable):
        embedder.embed(VERSION, [png("blue")])


def test_what_was_admitted_is_finished_before_the_end(start, network, png):
    embedder = start()
    network.gate.clear()
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(embedder.embed, VERSION, [png("blue")])
        assert network.entered.wait(10)
        stopping = threads.submit(embedder.__exit__)
        _wait(lambda: embedder._stopping)
        with pytest.raises(Unavailable):
            embedder.embed(VERSION, [png("lime")])
        network.gate.set()

        assert isinstance(waiting.result()[0], Embedded)
        stopping.result()
    assert not any(worker.thread.is_alive() for worker in embedder._workers)


def test_versions_used_longest_ago_are_forgotten(start, png):
    loaded = []

    def load(version: UUID) -> Encoder:
        loaded.append(version)
        return Encoder([MeanColour()], embedding_dim=3, preprocessing=SMALL)

    embedder = start(load=load, encoders_in_memory=2)
    one, two, three = (UUID(int=n) for n in range(3))

    for version in (one, two, one, three, one, two):
        embedder.embed(version, [png("blue")])

    assert loaded == [one, two, three, two]


def test_batches_never_mix_versions(start, png):
    networks = {UUID(int=n): MeanColour() for n in range(2)}

    def load(version: UUID) -> Encoder:
        return Encoder([networks[version]], embedding_dim=3, preprocessing=SMALL)

    embedder = start(load=load)
    one, two = networks
    networks[one].gate.clear()
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(embedder.embed, one, [png("blue")])
        assert networks[one].entered.wait(10)
        others = [
            threads.submit(embedder.embed, version, [png("lime", n) for n in range(3)])
            for version in (two, one)
        ]
        _wait(lambda: len(embedder._ready) == 6)
        networks[one].gate.set()
        for future in [first, *others]:
            assert all(isinstance(outcome, Embedded) for outcome in future.result())

    assert sum(networks[one].batches) == 4
    assert sum(networks[two].batches) == 3


def _wait(condition) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to pass")
