"""The recurrent network that learns the update of another."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.encoders.architectures.conv4 import Conv4
from models.metalearning import start
from models.metalearning.episodes import EpisodeShape, LabelSplit
from models.metalearning.inner_loop import InnerLoopDiverged
from models.metalearning.learners.lstm_learner import (
    LearnedUpdate,
    LSTMLearner,
    flat,
    preprocessed,
    unflat,
)
from models.training.recipe import Recipe

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(12, 3, 16, 16, generator=GENERATOR).double()
LABELS = torch.arange(3).repeat_interleave(2)


def learner(*, fresh: bool = False, **options):
    torch.manual_seed(0)
    encoder = Conv4(width=3, image_side=16).build()
    return LSTMLearner(**options).build(encoder, fresh=fresh).double().train()


def outer_loss(objective):
    prepared = objective.prepare(IMAGES)
    logits = objective.logits(prepared[:6].unflatten(0, (3, 2)), prepared[6:])
    return F.cross_entropy(logits, LABELS)


@pytest.fixture
def one_step(monkeypatch):
    monkeypatch.setattr("models.metalearning.learners.lstm_learner.MOST_STEPS", 1)
    monkeypatch.setattr("models.metalearning.learners.lstm_learner.FEWEST_STEPS", 1)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(weights, gradients, losses, cell):
    """Equation 2, coordinate by coordinate, as the paper has it."""
    lstm, lstm_bias, gates, gate_bias = weights

    def scaled(x):
        if abs(x) >= math.exp(-10):
            return [math.log(abs(x)) / 10, np.sign(x)]
        return [-1.0, math.exp(10) * x]

    cells = []
    for n, c in enumerate(cell):
        hidden, inner, forget, enter = np.zeros(20), np.zeros(20), 0.0, 0.0
        for gradient, loss in zip(gradients, losses, strict=True):
            inputs = np.array([*scaled(gradient[n]), *scaled(loss), *hidden])
            i, f, o, g = (lstm @ inputs + lstm_bias).reshape(4, 20)
            inner = sigmoid(f) * inner + sigmoid(i) * np.tanh(g)
            hidden = sigmoid(o) * np.tanh(inner)
            forget = gates[0] @ np.array([*hidden, c, forget]) + gate_bias[0]
            enter = gates[1] @ np.array([*hidden, c, enter]) + gate_bias[1]
            c = sigmoid(forget) * c - sigmoid(enter) * gradient[n]
        cells.append(c)
    return np.array(cells)


def test_steps_are_those_of_the_equation():
    torch.manual_seed(0)
    update = LearnedUpdate().double()
    for weights in (update.lstm, update.gates):
        nn.init.normal_(weights)
    sizes = torch.logspace(-6, 1, 7)
    gradients = torch.randn(3, 7, generator=GENERATOR).double() * sizes
    losses = torch.tensor([1.6, 0.3, 1e-6]).double()
    start = torch.randn(7, generator=GENERATOR).double()

    cell, memory = start, None
    for gradient, loss in zip(gradients, losses, strict=True):
        cell, memory = update(gradient, loss, cell, memory)

    values = [value.detach().numpy() for value in update.parameters()]
    expected = reference(values, gradients.numpy(), losses.numpy(), start.numpy())
    assert np.allclose(cell.detach().numpy(), expected, atol=1e-12)


def test_it_starts_as_gradient_descent():
    update = LearnedUpdate()

    forget, enter = update.gate_bias.tolist()

    assert 4 <= forget <= 5
    assert -5 <= enter <= -4
    weights = torch.cat([p.flatten() for p in (update.lstm, update.lstm_bias, update.gates)])
    assert float(weights.abs().max()) <= 0.01
    assert float(weights.std()) == pytest.approx(0.01 / math.sqrt(3), rel=0.1)


def test_with_gates_at_their_biases_it_is_gradient_descent_with_weight_decay():
    objective = learner()
    objective.update.gates.data.zero_()
    forget, enter = objective.update.gate_bias.sigmoid().tolist()
    encoder, layer = copy.deepcopy(objective.encoder), nn.Linear(3, 3).double()
    layer.weight.data[:], layer.bias.data[:] = objective.row, objective.offset
    descent = torch.optim.SGD(
        [*encoder.parameters(), *layer.parameters()], lr=enter, weight_decay=(1 - forget) / enter
    )

    weights, rows, offsets = objective.solve(objective.prepare(IMAGES[:6]).unflatten(0, (3, 2)))

    for _ in range(11):
        descent.zero_grad()
        F.cross_entropy(layer(encoder.features(IMAGES[:6])), LABELS).backward()
        descent.step()
    expected = [*encoder.parameters(), *layer.parameters()]
    for value, other in zip([*weights.values(), rows, offsets], expected, strict=True):
        assert torch.allclose(value, other, atol=1e-10)


def test_gradients_of_the_learner_are_numbers():
    objective = learner()
    objective.update.gates.data.zero_()

    outer_loss(objective).backward()

    # With c_T = f^T c_0 - ..., all else being constant, the first weights get f^T of what the last
    # ones get.
    solution = objective.solve(objective.prepare(IMAGES[:6]).unflatten(0, (3, 2)))
    found = flat(solution).detach().requires_grad_()
    logits = objective._learner(unflat(found, solution), objective.prepare(IMAGES[6:]), 6)
    F.cross_entropy(logits, LABELS).backward()
    decay = float(objective.update.gate_bias[0].sigmoid()) ** 11
    first = torch.cat([p.grad.flatten() for p in objective.encoder.parameters()])
    assert torch.allclose(first, decay * found.grad[: len(first)], atol=1e-10)


@pytest.mark.usefixtures("one_step")
@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("kind", ["network", "head"])
def test_what_is_learned_of_the_update_equals_finite_differences(kind, fresh):
    objective = learner(learner=kind, fresh=fresh)
    if kind == "head":
        objective.encoder.eval()  # or the statistics that it remembers would differ

    outer_loss(objective).backward()

    for name, parameter in objective.update.named_parameters():
        direction = torch.randn(parameter.shape, generator=GENERATOR, dtype=torch.float64)
        losses = []
        for shift in (1e-6, -2e-6):
            parameter.data += shift * direction
            losses.append(float(outer_loss(objective)))
        parameter.data += 1e-6 * direction
        slope = float((parameter.grad * direction).sum())
        assert slope == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-5, abs=1e-9), name


@pytest.mark.parametrize(("shots", "steps"), [(1, 12), (2, 11), (5, 8), (9, 8)])
def test_it_takes_fewer_steps_where_shots_are_many(shots, steps):
    objective = learner(learner="head")
    calls = []
    objective.update.register_forward_hook(lambda *_: calls.append(1))

    objective.solve(torch.rand(2, shots, 3).double())

    assert len(calls) == steps


def test_small_numbers_are_told_apart():
    values = torch.tensor([1.0, -math.exp(5), 0.0, math.exp(-11)])

    scaled = preprocessed(values)

    expected = torch.tensor([[0.0, 0.5, -1.0, -1.0], [1.0, -1.0, 0.0, math.exp(-1)]])
    assert torch.allclose(scaled, expected, atol=1e-6)


def test_a_head_leaves_the_encoder_as_it_is():
    shots = learner(learner="head").prepare(IMAGES[:6]).unflatten(0, (3, 2))

    assert learner(learner="head").solve(shots).weights == {}


def test_it_takes_any_number_of_labels():
    objective = learner(fresh=True)
    prepared = objective.prepare(IMAGES)

    assert objective.logits(prepared[:10].unflatten(0, (5, 2)), prepared[10:]).shape == (2, 5)


def test_updates_that_come_to_no_number_are_named():
    objective = learner()
    objective.row.data[0] = torch.nan

    with pytest.raises(InnerLoopDiverged, match="nan in step 1 of the inner loop: lower the inner"):
        outer_loss(objective)


def test_its_gradients_are_clipped_as_printed(characters):
    images, targets = characters(8, 3)
    training = start(
        LSTMLearner(learner="head"),
        Conv4(width=3, image_side=28).build(),
        images,
        targets,
        LabelSplit(list(range(8)), [], []),
        EpisodeShape(ways=2, shots=1, queries=1),
        Recipe(epochs=1, rate=1e-3, clip_norm=5.0),
        episodes_an_epoch=1,
        fresh=True,
    )

    assert training._recipe.clip_norm == 0.25
