"""What is set up before the first request."""

from uuid import UUID

from app.inference.images import Embedded
from models.encoders import Encoder
from tests.app.inference.conftest import PATIENCE_S, VERSION, wait_until


def test_it_is_warm_when_each_batch_size_ran(start, network, png):
    network.gate.clear()
    embedder = start(warm_up=VERSION, max_batch=6)
    assert network.entered.wait(PATIENCE_S)
    assert not embedder.warm.is_set()

    network.gate.set()

    assert embedder.warm.wait(PATIENCE_S)
    assert network.batches == [1, 2, 4, 4]  # the largest shows how fast it is
    assert embedder.runtime == "pytorch"
    assert isinstance(embedder.embed(VERSION, [png("blue")])[0], Embedded)


def test_who_asked_hears_of_it_before_it_is_warm(start, network):
    network.gate.clear()
    embedder, was_warm = start(warm_up=VERSION), []
    embedder.when_warm = lambda: was_warm.append(embedder.warm.is_set())

    network.gate.set()

    assert embedder.warm.wait(PATIENCE_S)
    assert was_warm == [False]


def test_without_a_version_it_is_warm_at_once(start, network):
    embedder = start()

    assert embedder.warm.wait(PATIENCE_S)
    assert (embedder.runtime, network.batches) == (None, [])


def test_a_network_that_cannot_warm_up_is_an_ailment(start):
    def broken(_: UUID) -> Encoder:
        raise RuntimeError("out of memory")

    embedder = start(load=broken, warm_up=VERSION)
    wait_until(embedder.ailments)

    assert "out of memory" in embedder.ailments()[0]
    assert not embedder.warm.is_set()


def test_it_knows_its_speed_before_the_first_request(start, network, clock, monkeypatch):
    monkeypatch.setattr("app.inference.warm_up.time", clock)

    def take_time(*_: object) -> None:
        clock.seconds += 0.1

    network.register_forward_pre_hook(take_time)
    network.gate.clear()
    embedder = start(warm_up=VERSION, max_batch=1, delay_s=1.0)
    assert not embedder.admission.is_too_late(1000)

    network.gate.set()
    assert embedder.warm.wait(PATIENCE_S)

    assert not embedder.admission.is_too_late(2)
    assert embedder.admission.is_too_late(4)


def test_it_ends_with_the_service(start, network):
    network.gate.clear()
    embedder = start(warm_up=VERSION)
    assert network.entered.wait(PATIENCE_S)
    embedder._admission.drain(PATIENCE_S)

    network.gate.set()

    assert embedder.warm.wait(PATIENCE_S)
    assert network.batches == [1]  # of four sizes
