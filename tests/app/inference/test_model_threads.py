"""Threads that run the network."""

import io
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image
from torch import nn

from app.inference.images import Embedded
from app.problems import InferenceFailed
from models.encoders import Encoder
from models.images import Preprocessing, decode
from models.runtimes.streams import COMPUTING_NICENESS
from tests.app.inference.conftest import PATIENCE_S, VERSION, encoder_of, wait_until

linux = pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")


def priority() -> int:
    """That of the calling thread."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_only_the_model_thread_computes_with_many_threads(start, network, png):
    counts = []
    network.register_forward_hook(lambda *_: counts.append(torch.get_num_threads()))
    embedder = start(threads=3)

    embedder.embed(VERSION, [png("blue")])
    with ThreadPoolExecutor(1) as threads:
        counts.append(threads.submit(torch.get_num_threads).result())

    assert counts == [3, 1]


def test_what_others_compute_needs_no_team_of_threads(start, network, png, monkeypatch):
    monkeypatch.setattr("models.runtimes.kinds.pytorch.PyTorch.in_caller", False)
    counts = []
    network.register_forward_hook(lambda *_: counts.append(torch.get_num_threads()))
    embedder = start(threads=3)

    for _ in range(3):
        embedder.embed(VERSION, [png("blue")])

    assert counts == [1, 1, 1]


def test_an_image_costs_its_decoding_and_little_else(start, monkeypatch):
    monkeypatch.setattr("models.runtimes.kinds.pytorch.PyTorch.in_caller", False)
    usual = Preprocessing(resize=256, crop=224, mean=(0.0,) * 3, std=(1.0,) * 3)

    class Null(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[:, :, 0, 0]

    encoder = Encoder([Null()], embedding_dim=3, preprocessing=usual)
    monkeypatch.setattr(encoder, "embed", lambda pixels: pixels[:, :, 0, 0].float())
    embedder = start(load=lambda _: encoder, threads=os.cpu_count())
    buffer = io.BytesIO()
    Image.effect_noise((600, 450), 40).convert("RGB").save(buffer, "JPEG")
    photo = buffer.getvalue()

    def cpu_s(work) -> float:
        started = time.process_time()
        for _ in range(100):
            work()
        return time.process_time() - started

    works = (
        lambda: decode(photo, usual, max_pixels=1 << 20),
        lambda: embedder.embed(VERSION, [photo]),
    )
    ratios = []
    for _ in range(4):
        decoding, embedding = map(cpu_s, works)
        ratios.append(embedding / decoding)

    assert min(ratios[1:]) <= 1.5, ratios  # the first round sets up what is lazy


def test_an_image_alone_is_computed_with_all_threads_and_more_in_streams(start, network, png):
    computed = []  # the thread of each batch, and how many it computes with
    embedder = start(threads=2, warm_up=VERSION)
    wait_until(lambda: embedder._batches._idle == {0, 1, 2, 3})
    both = threading.Barrier(2, timeout=PATIENCE_S)

    def look(*_: object) -> None:
        name = threading.current_thread().name
        computed.append((name, torch.get_num_threads()))
        if name != "model":
            both.wait()  # neither stream goes on without the other

    network.register_forward_hook(look)

    embedder.embed(VERSION, [png("blue")])
    assert computed == [("model", 2)]
    outcomes = embedder.embed(VERSION, [png("blue", n) for n in range(2)])

    assert all(isinstance(outcome, Embedded) for outcome in outcomes)
    assert {count for _, count in computed[1:]} == {1}
    assert len({name for name, _ in computed[1:]} - {"model"}) == 2


def test_streams_and_the_model_thread_lose_nothing_between_them(start, png):
    embedder = start(threads=3, warm_up=VERSION)
    assert embedder.warm.wait(PATIENCE_S)
    files = {colour: [png(colour, n) for n in range(3)] for colour in ("blue", "lime")}

    def is_right(n: int) -> bool:
        colour, axis = ("blue", 2) if n % 2 else ("lime", 1)
        outcomes = embedder.embed(VERSION, files[colour][: 1 + n % 3])
        return {int(outcome.vector.argmax()) for outcome in outcomes} == {axis}

    with ThreadPoolExecutor(5) as threads:
        assert all(threads.map(is_right, range(300)))


@linux
def test_threads_that_compute_yield_to_those_that_answer(start, network, png):
    priorities, normal = [], priority()
    network.register_forward_hook(lambda *_: priorities.append(priority()))

    start().embed(VERSION, [png("blue")])

    assert priorities == [min(19, normal + COMPUTING_NICENESS)]  # the kernel has no more
    assert priority() == normal


@linux
def test_a_thread_that_only_waits_for_others_that_compute_does_not_yield(
    start, network, png, monkeypatch
):
    monkeypatch.setattr("models.runtimes.kinds.pytorch.PyTorch.in_caller", False)
    priorities, normal = [], priority()
    network.register_forward_hook(lambda *_: priorities.append(priority()))

    start().embed(VERSION, [png("blue")])

    assert priorities == [normal]


def test_an_image_that_fails_the_network_fails_alone(start, network, png):
    embedder = start()
    network.gate.clear()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(embedder.embed, VERSION, [png("blue")])
        assert network.entered.wait(PATIENCE_S)
        pictures = [png("blue", n) for n in range(5)] + [png("red")] + [png("lime")]
        second = threads.submit(embedder.embed, VERSION, pictures)
        wait_until(lambda: len(embedder._batches) == 7)
        network.gate.set()
        first.result()
        outcomes = second.result()

    assert [isinstance(outcome, Embedded) for outcome in outcomes] == [True] * 5 + [False, True]
    assert isinstance(outcomes[5], InferenceFailed)
    assert "too red" in outcomes[5].detail
    assert network.batches[1] == 7


def test_numbers_that_are_not_finite_are_a_failure(start, png):
    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3)) / 0

    (outcome,) = start(load=lambda _: encoder_of(Broken())).embed(VERSION, [png("blue")])

    assert isinstance(outcome, InferenceFailed)
