"""Every way to meta-learn: the promises that they share."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from models.encoders.architectures.conv4 import Conv4
from models.metalearning import accuracies, start
from models.metalearning.episodes import Episodes, EpisodeShape, LabelSplit, TooFewForEpisodes
from models.metalearning.learners import learners
from models.training.recipe import Recipe

SHAPE = EpisodeShape(ways=4, shots=(1, 2), queries=3)
# Less than by default, where that takes long.
SHORTER: dict[str, dict[str, Any]] = {"maml": {"steps": 1}}
QUICKER: dict[str, dict[str, Any]] = {
    "maml": {"inner": "head"},
    "lstm_learner": {"learner": "head"},
}
SPLIT = LabelSplit(list(range(28)), list(range(28, 32)), list(range(32, 40)))


@pytest.fixture(autouse=True)
def few_validation_episodes(monkeypatch):
    """Some methods take many steps to answer one."""
    monkeypatch.setattr("models.metalearning.VALIDATION_EPISODES", 4)
    monkeypatch.setattr("models.metalearning.DEAR_VALIDATION_EPISODES", 4)


@pytest.fixture(scope="module")
def drawings(characters):
    return characters(40, 6)


def begin(
    name: str,
    drawings,
    *,
    epochs: int = 2,
    episodes: int = 4,
    fresh: bool = True,
    options: dict[str, Any] | None = None,
):
    encoder = Conv4(width=8, image_side=28).build()
    recipe = Recipe(epochs=epochs, rate=3e-3, schedule="cosine")
    return start(
        learners[name](**(options or SHORTER.get(name, {}))),
        encoder,
        drawings[0],
        drawings[1],
        SPLIT,
        SHAPE,
        recipe,
        episodes_an_epoch=episodes,
        fresh=fresh,
    )


def weights(training) -> list[Tensor]:
    return [value.detach().clone() for value in training.objective.state_dict().values()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", learners)
def test_it_gets_better_at_labels_that_it_never_saw(name, drawings):
    training = begin(name, drawings, epochs=10, episodes=8, options=QUICKER.get(name))
    harder = Episodes(drawings[1], SPLIT.test, EpisodeShape(ways=8, shots=1, queries=4))
    generator = torch.Generator().manual_seed(1)
    episodes = [harder.draw(generator) for _ in range(30)]
    before = float(accuracies(training.objective, drawings[0], episodes).mean())

    epochs = list(training)
    training.restore_best()

    after = float(accuracies(training.objective, drawings[0], episodes).mean())
    assert epochs[-1].loss < epochs[0].loss
    assert after > before + 0.1


@pytest.mark.parametrize("name", learners)
def test_a_run_that_was_interrupted_goes_on_bit_for_bit(name, drawings):
    whole = begin(name, drawings, epochs=3)
    losses = [epoch.loss for epoch in whole]

    first = begin(name, drawings, epochs=3)
    next(first)
    state = first.state()
    torch.manual_seed(99)
    second = begin(name, drawings, epochs=3)
    second.load(state)

    assert [epoch.loss for epoch in second] == losses[1:]
    assert same(weights(second), weights(whole))


@pytest.mark.parametrize("name", learners)
def test_the_answer_for_a_query_does_not_depend_on_others(name, drawings):
    training = begin(name, drawings)
    next(training)
    objective = training.objective.eval()
    images = drawings[0].float() / 255
    rows = images[: 4 * 6].unflatten(0, (4, 6))
    support, query = rows[:, :2], rows[:, 2:].flatten(0, 1)

    def answer(queries: Tensor) -> Tensor:
        with torch.no_grad():
            prepared = objective.prepare(support.flatten(0, 1)).unflatten(0, (4, 2))
            return objective.logits(prepared, objective.prepare(queries)).detach()

    together = answer(query)
    alone = torch.cat([answer(image[None]) for image in query])
    assert torch.allclose(alone, together, atol=1e-4)


@pytest.mark.parametrize("name", learners)
def test_labels_that_change_places_change_places_in_the_answer(name, drawings):
    objective = begin(name, drawings).objective.eval()
    rows = (drawings[0][: 4 * 6].float() / 255).unflatten(0, (4, 6))
    order = torch.tensor([2, 0, 3, 1])

    def answer(support: Tensor) -> Tensor:
        with torch.no_grad():
            prepared = objective.prepare(support.flatten(0, 1)).unflatten(0, (4, 2))
            query = objective.prepare(rows[:, 2:].flatten(0, 1))
            return objective.logits(prepared, query).detach()

    assert torch.allclose(answer(rows[:, :2])[:, order], answer(rows[order, :2]), atol=1e-4)


@pytest.mark.parametrize("name", learners)
def test_what_looks_the_same_is_as_likely(name, drawings):
    objective = begin(name, drawings).objective.eval()
    image = drawings[0][:1].float() / 255

    with torch.no_grad():
        prepared = objective.prepare(image.expand(10, -1, -1, -1))
        support, query = prepared[:8].unflatten(0, (4, 2)), prepared[8:]
        probabilities = objective.logits(support, query).softmax(dim=1).detach()

    assert torch.allclose(probabilities.log(), torch.tensor(-math.log(4)), atol=1e-3)


@pytest.mark.parametrize("name", learners)
def test_only_labels_to_learn_from_are_learned_from(name, drawings):
    training = begin(name, drawings)
    seen: set[int] = set()
    views = training.objective.make_views

    def watched(images, shares, generator):
        seen.update(shares.argmax(dim=1).tolist())
        return views(images, shares, generator)

    training.objective.make_views = watched
    list(training)

    assert seen <= set(SPLIT.train)


@pytest.mark.parametrize("name", learners)
def test_a_pretrained_encoder_keeps_its_statistics(name, drawings):
    training = begin(name, drawings, fresh=False)
    norms = [key for key in training.objective.state_dict() if "running" in key]
    before = {key: training.objective.state_dict()[key].clone() for key in norms}

    next(training)

    assert norms
    assert all(torch.equal(before[key], training.objective.state_dict()[key]) for key in norms)


@pytest.mark.parametrize("name", learners)
def test_too_few_labels_are_refused(name, drawings):
    short = SPLIT._replace(train=[0, 1, 2])
    encoder = Conv4(width=8, image_side=28).build()

    with pytest.raises(TooFewForEpisodes, match="4 labels need as many with 5 images each"):
        start(
            learners[name](),
            encoder,
            drawings[0],
            drawings[1],
            short,
            SHAPE,
            Recipe(epochs=1, rate=1e-3),
            episodes_an_epoch=1,
            fresh=True,
        )
