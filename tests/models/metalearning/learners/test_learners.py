"""Every way to meta-learn: the promises that they share."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.encoders.architectures.conv4 import Conv4
from models.heads.network import NetworkHead
from models.metalearning import MetaMethod, accuracies, start
from models.metalearning.episodes import Episodes, EpisodeShape, LabelSplit, TooFewForEpisodes
from models.metalearning.heads import HeadMethod, HeadObjective, start_head
from models.metalearning.learners import learners
from models.training.loop import as_values
from models.training.recipe import Recipe

SHAPE = EpisodeShape(ways=4, shots=(1, 2), queries=3)
# Less than by default, where that takes long.
SHORTER: dict[str, dict[str, Any]] = {"maml": {"steps": 1}}
QUICKER: dict[str, dict[str, Any]] = {
    "anil": {"steps": 1, "width": 8},
    "in_context": {"layers": 1},
    "lstm_head": {"steps": 2, "width": 8},
    "maml": {"inner": "last_stage", "steps": 1},
}
RATES = {"lstm_learner": 2e-2}
EPISODES = dict.fromkeys(("feat", "in_context", "projections", "relation"), 60) | {
    "anil": 20,
    "lstm_head": 20,
}  # of an epoch, so that it gets better; of others 8
ENCODER_METHODS = [name for name, method in learners.items() if isinstance(method(), MetaMethod)]
HEAD_METHODS = [name for name, method in learners.items() if isinstance(method(), HeadMethod)]
SIGNAL, NOISE = 6, 12  # dimensions of embeddings in which labels differ, and in which they do not
SPLIT = LabelSplit(list(range(28)), list(range(28, 32)), list(range(32, 40)))
SPLIT_OF_HEADS = LabelSplit(list(range(108)), list(range(108, 112)), list(range(112, 120)))


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """Some methods take many steps to answer an episode."""
    monkeypatch.setattr("models.metalearning.VALIDATION_EPISODES", 4)
    monkeypatch.setattr("models.metalearning.DEAR_VALIDATION_EPISODES", 4)
    monkeypatch.setattr("models.metalearning.learners.lstm_learner.MOST_STEPS", 1)
    monkeypatch.setattr("models.metalearning.learners.lstm_learner.FEWEST_STEPS", 1)


@pytest.fixture(scope="module")
def drawings(characters):
    return characters(40, 6)


@pytest.fixture(scope="module")
def embeddings():
    """Of more labels; most of their dimensions are noise, which a head can learn to look past."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(120).repeat_interleave(6)
    centres = torch.randn(120, SIGNAL, generator=generator)
    signal = centres[targets] + 0.3 * torch.randn(720, SIGNAL, generator=generator)
    noise = torch.randn(720, NOISE, generator=generator)
    return F.normalize(torch.cat([signal, noise], dim=1), dim=1), targets


@pytest.fixture
def data(name, request):
    """What a method learns from: drawings or embeddings, and their labels."""
    return request.getfixturevalue("embeddings" if name in HEAD_METHODS else "drawings")


def split_of(name: str) -> LabelSplit:
    return SPLIT_OF_HEADS if name in HEAD_METHODS else SPLIT


def begin(
    name: str,
    data,
    *,
    epochs: int = 2,
    episodes: int = 4,
    fresh: bool = True,
    options: dict[str, Any] | None = None,
    split: LabelSplit | None = None,
):
    split = split or split_of(name)
    method: Any = learners[name](**(options or SHORTER.get(name, {})))
    recipe = Recipe(epochs=epochs, rate=RATES.get(name, 3e-3), schedule="cosine")
    if name in HEAD_METHODS:
        return start_head(
            method, data[0], data[1], split, SHAPE, recipe, episodes_an_epoch=episodes
        )
    return start(
        method,
        Conv4(width=8, image_side=28).build(),
        data[0],
        data[1],
        split,
        SHAPE,
        recipe,
        episodes_an_epoch=episodes,
        fresh=fresh,
    )


def moved(name: str) -> HeadObjective:
    """Of a head method, with weights that are not those of the start."""
    torch.manual_seed(0)
    objective = HeadObjective(learners[name]().network(SIGNAL + NOISE)).eval()
    for parameter in objective.network.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return objective.requires_grad_(False)


def weights(training) -> list[Tensor]:
    return [value.detach().clone() for value in training.objective.state_dict().values()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", learners)
def test_it_gets_better_at_labels_that_it_never_saw(name, data):
    count = EPISODES.get(name, 8)
    training = begin(name, data, epochs=10, episodes=count, options=QUICKER.get(name))
    harder = Episodes(data[1], split_of(name).test, EpisodeShape(ways=8, shots=1, queries=4))
    generator = torch.Generator().manual_seed(1)
    episodes = [harder.draw(generator) for _ in range(30)]
    before = float(accuracies(training.objective, data[0], episodes).mean())

    epochs = list(training)
    training.restore_best()

    after = float(accuracies(training.objective, data[0], episodes).mean())
    assert epochs[-1].loss < epochs[0].loss
    assert after > before + 0.1


@pytest.mark.parametrize("name", learners)
def test_a_run_that_was_interrupted_goes_on_bit_for_bit(name, data):
    whole = begin(name, data, epochs=3)
    losses = [epoch.loss for epoch in whole]

    first = begin(name, data, epochs=3)
    next(first)
    state = first.state()
    torch.manual_seed(99)
    second = begin(name, data, epochs=3)
    second.load(state)

    assert [epoch.loss for epoch in second] == losses[1:]
    assert same(weights(second), weights(whole))


@pytest.mark.parametrize("name", learners)
def test_the_answer_for_a_query_does_not_depend_on_others(name, data):
    training = begin(name, data)
    next(training)
    objective = training.objective.eval()
    rows = as_values(data[0][: 4 * 6]).unflatten(0, (4, 6))
    support, query = rows[:, :2], rows[:, 2:].flatten(0, 1)

    def answer(queries: Tensor) -> Tensor:
        with torch.no_grad():
            prepared = objective.prepare(support.flatten(0, 1)).unflatten(0, (4, 2))
            return objective.logits(prepared, objective.prepare(queries)).detach()

    together = answer(query)
    alone = torch.cat([answer(image[None]) for image in query])
    assert torch.allclose(alone, together, atol=1e-4)


@pytest.mark.parametrize("name", learners)
def test_labels_that_change_places_change_places_in_the_answer(name, data):
    training = begin(name, data)
    next(training)
    objective = training.objective.eval()
    rows = as_values(data[0][: 4 * 6]).unflatten(0, (4, 6))
    order = torch.tensor([2, 0, 3, 1])

    def answer(support: Tensor) -> Tensor:
        with torch.no_grad():
            prepared = objective.prepare(support.flatten(0, 1)).unflatten(0, (4, 2))
            query = objective.prepare(rows[:, 2:].flatten(0, 1))
            return objective.logits(prepared, query).detach()

    first, moved = answer(rows[:, :2])[:, order], answer(rows[order, :2])
    assert torch.allclose(first, moved, rtol=0, atol=1e-4 * float(first.abs().max()))


@pytest.mark.parametrize("name", learners)
def test_what_looks_the_same_is_as_likely(name, data):
    objective = begin(name, data).objective.eval()
    image = as_values(data[0][:1])

    with torch.no_grad():
        prepared = objective.prepare(image.expand(10, *image.shape[1:]))
        support, query = prepared[:8].unflatten(0, (4, 2)), prepared[8:]
        probabilities = objective.logits(support, query).softmax(dim=1).detach()

    assert torch.allclose(probabilities.log(), torch.tensor(-math.log(4)), atol=1e-3)


@pytest.mark.parametrize("name", learners)
def test_only_labels_to_learn_from_are_learned_from(name, data):
    training = begin(name, data)
    seen: set[int] = set()
    views = training.objective.make_views

    def watched(images, shares, generator):
        seen.update(shares.argmax(dim=1).tolist())
        return views(images, shares, generator)

    training.objective.make_views = watched
    list(training)

    assert seen <= set(split_of(name).train)


@pytest.mark.parametrize("name", learners)
def test_no_image_is_support_and_query_of_an_episode(name, data):
    training = begin(name, data)
    loss, drawn = training.objective.loss, []

    def watched(batch):
        drawn.append(batch.positions)
        return loss(batch)

    training.objective.loss = watched
    list(training)

    assert len(drawn) == 8 // training.objective.tasks
    for positions in drawn:
        for episode in positions.chunk(training.objective.tasks):
            assert len(set(episode.tolist())) == len(episode)


@pytest.mark.parametrize("name", learners)
def test_a_seed_gives_the_same_run(name, data):
    first, second = begin(name, data), begin(name, data)
    next(first)
    torch.manual_seed(99)
    next(second)

    assert same(weights(first), weights(second))


@pytest.mark.parametrize("name", ENCODER_METHODS)
def test_a_pretrained_encoder_keeps_its_statistics(name, data):
    training = begin(name, data, fresh=False)
    norms = [key for key in training.objective.state_dict() if "running" in key]
    before = {key: training.objective.state_dict()[key].clone() for key in norms}

    next(training)

    assert norms
    assert all(torch.equal(before[key], training.objective.state_dict()[key]) for key in norms)


@pytest.mark.parametrize("name", learners)
def test_too_few_labels_are_refused(name, data):
    with pytest.raises(TooFewForEpisodes, match="4 labels need as many with 5 images each"):
        begin(name, data, options={}, split=split_of(name)._replace(train=[0, 1, 2]))


@pytest.mark.parametrize("name", HEAD_METHODS)
def test_a_head_starts_as_plain_prototypes(name, embeddings):
    rows = embeddings[0][: 4 * 6].unflatten(0, (4, 6))
    query = rows[:, 2:].flatten(0, 1)

    with torch.no_grad():
        log_odds = begin(name, embeddings).objective.logits(rows[:, :2], query)

    distances = torch.cdist(query, rows[:, :2].mean(dim=1)).square()
    assert torch.allclose(log_odds.log_softmax(1), (-10 * distances).log_softmax(1), atol=1e-4)


@pytest.mark.parametrize("name", HEAD_METHODS)
def test_all_that_a_head_has_learns_and_embeddings_stay(name, embeddings):
    training = begin(name, embeddings)
    before, stored = weights(training), embeddings[0].clone()

    list(training)

    after = weights(training)
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(embeddings[0], stored)


@pytest.mark.parametrize("name", HEAD_METHODS)
def test_what_serves_answers_as_what_learned(name, embeddings):
    objective = moved(name)
    support, targets = embeddings[0][:30], embeddings[1][:30]
    head = NetworkHead(network=objective.network, centered=False, temperature=1.0)

    fitted = head.fit(support, targets, 5)

    expected = objective.logits(support.unflatten(0, (5, 6)), embeddings[0][200:])
    assert torch.allclose(fitted.scores(embeddings[0][200:]), expected, atol=1e-4)


@pytest.mark.parametrize("name", HEAD_METHODS)
def test_the_order_of_shots_does_not_matter(name, embeddings):
    network = moved(name).network
    support, targets = embeddings[0][:30], embeddings[1][:30]
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))

    condensed = [network.condense(support[o], targets[o], 5) for o in (torch.arange(30), order)]

    first, second = (network.answer(each, embeddings[0][200:]) for each in condensed)
    assert torch.allclose(first, second, atol=1e-3)  # of numbers of hundreds


@pytest.mark.parametrize("name", HEAD_METHODS)
def test_a_shot_is_left_out_as_by_a_head_without_it(name, embeddings):
    """Each alone, where there are few shots or `left_out` is exact; a class may go with it."""
    network = moved(name).network
    few = torch.tensor([0, 1, 2, 6, 7, 12, 13, 14, 15, 18])
    support, targets = embeddings[0][few], embeddings[1][few]
    fitted = NetworkHead(network=network, centered=False, temperature=1.0).fit(support, targets, 4)

    log_odds = fitted.leave_one_out(support, targets)

    for row in range(9):
        others = torch.arange(10) != row
        condensed = network.condense(support[others], targets[others], 4)
        expected = network.answer(condensed, support[row : row + 1])[0]
        assert torch.allclose(log_odds[row].float(), expected, atol=1e-4)
    assert log_odds[9, 3] == -torch.inf
    if network.exact:
        condensed = network.condense(support[:9], targets[:9], 3)
        expected = network.answer(condensed, support[9:])[0]
        assert torch.allclose(log_odds[9, :3].float(), expected, atol=1e-4)


@pytest.mark.parametrize("name", HEAD_METHODS)
def test_of_many_shots_it_is_left_out_alone_or_with_a_sixteenth(name, embeddings):
    network = moved(name).network
    support, targets = embeddings[0][:48], embeddings[1][:48]
    fitted = NetworkHead(network=network, centered=False, temperature=1.0).fit(support, targets, 8)

    (log_odds,) = fitted.leave_one_out(support[20:21], targets[20:21])

    rows = torch.arange(48)
    others = rows != 20 if network.exact else rows % 16 != 20 % 16
    condensed = network.condense(support[others], targets[others], 8)
    expected = network.answer(condensed, support[20:21])[0]
    assert torch.allclose(log_odds.float(), expected, atol=1e-4)
