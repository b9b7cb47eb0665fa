"""The encoders in memory."""

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from app.inference.encoder_cache import EncoderCache
from models.runtimes import Resources
from models.runtimes.selector import RuntimeSelector
from tests.app.inference.conftest import PATIENCE_S, VERSION, MeanColour, encoder_of


@pytest.fixture
def selector() -> RuntimeSelector:
    return RuntimeSelector("pytorch", Resources(threads=1, batch=8))


@pytest.fixture
def loads() -> list[UUID]:
    """The versions that were loaded."""
    return []


@pytest.fixture
def cache(selector, loads) -> EncoderCache:
    """A cache of two encoders."""

    def load(version: UUID):
        loads.append(version)
        return encoder_of(MeanColour())

    return EncoderCache(load, selector, size=2)


def test_versions_used_longest_ago_are_forgotten(cache, loads):
    first, second, third = (UUID(int=n) for n in range(3))

    for version in (first, second, first, third, first, second):
        cache.get(version)

    assert loads == [first, second, third, second]


def test_many_who_need_an_encoder_share_one(cache, loads):
    with ThreadPoolExecutor(8) as threads:
        encoders = set(threads.map(cache.get, [VERSION] * 50))

    assert len(encoders) == len(loads) == 1


def test_an_encoder_is_found_without_waiting_for_one_that_is_loaded(selector):
    entered, gate = threading.Event(), threading.Event()

    def load(version: UUID):
        if version != VERSION:
            entered.set()
            assert gate.wait(PATIENCE_S)
        return encoder_of(MeanColour())

    cache = EncoderCache(load, selector, size=2)
    loaded, slow = cache.get(VERSION), UUID(int=1)
    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(cache.get, slow)
        assert entered.wait(PATIENCE_S)

        assert (cache.find(VERSION), cache.find(slow)) == (loaded, None)
        gate.set()

        assert loading.result() is cache.find(slow)


def test_encoders_are_for_inference(cache):
    assert not cache.get(VERSION).encoder.training


def test_a_runtime_is_prepared_once(cache, selector, monkeypatch):
    prepared, prepare = [], selector.prepare

    def counted(encoder):
        prepared.append(encoder)
        return prepare(encoder)

    monkeypatch.setattr(selector, "prepare", counted)
    loaded = cache.get(VERSION)
    with ThreadPoolExecutor(8) as threads:
        serving = [threads.submit(loaded.prepare) for _ in range(20)]

    assert {future.result().runtime for future in serving} == {"pytorch"}
    assert prepared == [loaded.encoder]


def test_runtimes_are_tried_in_the_model_thread_only(cache, selector, monkeypatch):
    loaded = cache.get(VERSION)
    monkeypatch.setattr(selector, "knows", lambda _: False)
    loaded.prepare_if_known()
    assert loaded.serving is None

    monkeypatch.setattr(selector, "knows", lambda _: True)
    loaded.prepare_if_known()

    assert loaded.serving is not None
    assert loaded.streams is None  # one thread has none beside it
