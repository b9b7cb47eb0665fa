"""What meta-training would cost."""

import copy
import re
from typing import Any, Literal

import pytest
import torch
from torch import nn

from models import metalearning
from models.encoders.architectures.conv4 import Conv4
from models.metalearning import LeakingNorms, cost
from models.metalearning.cost import (
    TooLittleMemory,
    episode_memory,
    measure_adaptation,
    measure_episodes,
    measure_head_episodes,
    require_memory,
)
from models.metalearning.episodes import EpisodeShape
from models.metalearning.learners import learners
from models.metalearning.learners.feat import Feat
from models.metalearning.learners.lstm_learner import LSTMLearner
from models.metalearning.learners.maml import MAML
from models.metalearning.learners.prototypical import Prototypical
from models.training.cost import count_saved


@pytest.fixture(autouse=True)
def _loaded(monkeypatch):
    """Libraries are loaded already: they take far more than these episodes."""
    monkeypatch.setattr(cost, "FIRST_STEP", 0)


SHAPE = EpisodeShape(ways=(3, 6), shots=(1, 3), queries=2)


def conv(width: int = 8):
    return Conv4(width=width, image_side=32).build()


def test_more_episodes_take_longer_and_a_wider_encoder_more_memory():
    narrow, wide = (measure_episodes(Prototypical(), conv(width), SHAPE, 100) for width in (8, 32))

    assert 0 < narrow.seconds < float("inf")
    assert 2 * narrow.memory < wide.memory


def test_larger_episodes_need_their_pixels_more_and_not_their_activations(monkeypatch):
    monkeypatch.setattr(metalearning, "PART_PIXELS", 32 * 32**2)
    large = EpisodeShape(ways=(3, 60), shots=(1, 3), queries=2)

    small, grown = (
        measure_episodes(Prototypical(), conv(), shape, 100).memory for shape in (SHAPE, large)
    )

    pixels = 4 * 3 * 32 * 32
    assert grown - small >= (300 - 30) * pixels
    assert grown - small < (300 - 30) * pixels + small / 8  # a part of 32 instead of 30


def test_a_head_costs_by_its_episodes_and_its_embeddings():
    few, many = (
        measure_head_episodes(Feat(width=4), 16, SHAPE, episodes, images)
        for episodes, images in ((100, 50), (10_000, 5_050))
    )

    assert 0 < few.seconds < many.seconds < float("inf")
    assert many.memory - few.memory == 2 * 4 * 16 * 5_000


def test_the_encoder_stays_as_it_is():
    encoder = conv()
    before = copy.deepcopy(encoder.state_dict())

    measure_episodes(Prototypical(), encoder, SHAPE, 100)

    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


@pytest.mark.parametrize("method", [MAML(steps=1), MAML(steps=3), LSTMLearner()], ids=str)
def test_an_adaptation_costs_by_its_images_and_in_memory_by_its_batch(method):
    learner: Any = method.build(conv(), fresh=False).eval()

    few, many, small = (
        measure_adaptation(learner, images, 3, size, runs=5, looks=20)
        for images, size in ((32, 32), (3200, 32), (3200, 4))
    )

    assert 10 * few.seconds < many.seconds < 1000 * few.seconds
    assert many.memory == few.memory > 2 * small.memory


ORDERS: list[Literal["second", "first"]] = ["second", "first"]
OF_ENCODERS = [name for name, method in learners.items() if hasattr(method, "build")]


@pytest.mark.parametrize("name", OF_ENCODERS)
@pytest.mark.parametrize("fresh", [False, True])
def test_the_memory_of_an_episode_is_what_it_leaves_behind(name, fresh):
    method: Any = learners[name]()
    encoder, shape = conv(4), EpisodeShape(ways=3, shots=2, queries=2)
    objective = method.build(copy.deepcopy(encoder), fresh=fresh).train()
    weights = sum(tensor.nbytes for tensor in objective.state_dict().values())
    with count_saved() as saved:
        prepared = objective.prepare(torch.rand(12, 3, 32, 32))
        objective.logits(prepared[:6].unflatten(0, (3, 2)), prepared[6:])

    memory = episode_memory(method, encoder, shape, fresh=fresh)

    expected = 4 * weights + saved.bytes + 12 * objective.tasks * 3 * 32 * 32 * 4
    assert memory == pytest.approx(expected, rel=0.02)


def test_graphs_that_are_thrown_away_do_not_count():
    encoder, shape = conv(4), EpisodeShape(ways=2, shots=1, queries=1)

    few, many, second = (
        episode_memory(method, encoder, shape, fresh=False)
        for method in (MAML(order="first", steps=2), MAML(order="first", steps=6), MAML(steps=6))
    )

    assert many < 1.5 * few
    assert second > 3 * many


def test_episodes_that_take_more_than_there_is_are_refused_with_what_would_fit():
    encoder, second = conv(4), MAML(steps=3)
    memory, less = (
        episode_memory(MAML(order=order, steps=3), encoder, SHAPE, fresh=False) for order in ORDERS
    )

    require_memory(second, encoder, SHAPE, fresh=False, available=memory)
    require_memory(second, encoder, SHAPE, fresh=False, available=None)
    with pytest.raises(TooLittleMemory, match=r"^'maml' takes about .* MiB of memory") as error:
        require_memory(second, encoder, SHAPE, fresh=False, available=less)

    assert (error.value.memory, error.value.available) == (memory, less)
    assert [lighter.options for lighter in error.value.fitting] == list(MAML.lighter)
    assert error.value.fitting[0].memory == less
    assert re.search(r"take `order: first` \(.*`anil`, which learns a head alone", str(error.value))
    with pytest.raises(TooLittleMemory, match=r"MiB; take `lstm_head`, which learns a head"):
        require_memory(LSTMLearner(), encoder, SHAPE, fresh=False, available=1)


def test_what_has_a_part_in_work_at_a_time_fits(monkeypatch):
    monkeypatch.setattr(metalearning, "PART_PIXELS", 32**2)

    require_memory(Prototypical(), conv(), SHAPE, fresh=False, available=1)

    with pytest.raises(TooLittleMemory):  # its norms look at all images at once
        require_memory(Prototypical(), conv(), SHAPE, fresh=True, available=1)


def test_an_encoder_whose_norms_leak_costs_nothing():
    encoder = conv()
    encoder.stages[0].register_module("1", nn.BatchNorm2d(8, track_running_stats=False))

    with pytest.raises(LeakingNorms):
        measure_episodes(Prototypical(), encoder, SHAPE, 100)
