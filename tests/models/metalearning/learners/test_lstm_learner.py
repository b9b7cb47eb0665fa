"""The recurrent network that learns the update of another."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.encoders.architectures.conv4 import Conv4
from models.metalearning import start
from models.metalearning.episodes import EpisodeShape, LabelSplit
from models.metalearning.inner_loop import InnerLoopDiverged
from models.metalearning.learners.lstm_learner import LSTMLearner, flat, unflat
from models.training.recipe import Recipe

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(12, 3, 16, 16, generator=GENERATOR).double()
LABELS = torch.arange(3).repeat_interleave(2)


def learner(*, fresh: bool = False):
    torch.manual_seed(0)
    encoder = Conv4(width=3, image_side=16).build()
    return LSTMLearner().build(encoder, fresh=fresh).double().train()


def outer_loss(objective):
    prepared = objective.prepare(IMAGES)
    logits = objective.logits(prepared[:6].unflatten(0, (3, 2)), prepared[6:])
    return F.cross_entropy(logits, LABELS)


@pytest.fixture
def one_step(monkeypatch):
    monkeypatch.setattr("models.metalearning.learners.lstm_learner.MOST_STEPS", 1)
    monkeypatch.setattr("models.metalearning.learners.lstm_learner.FEWEST_STEPS", 1)


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
    logits = objective.answers(unflat(found, solution), objective.prepare(IMAGES[6:]), 6)
    F.cross_entropy(logits, LABELS).backward()
    decay = float(objective.update.gate_bias[0].sigmoid()) ** 11
    first = torch.cat([p.grad.flatten() for p in objective.encoder.parameters()])
    assert torch.allclose(first, decay * found.grad[: len(first)], atol=1e-10)


@pytest.mark.usefixtures("one_step")
@pytest.mark.parametrize("fresh", [True, False])
def test_what_is_learned_of_the_update_equals_finite_differences(fresh):
    objective = learner(fresh=fresh)

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
    objective = learner()
    calls = []
    objective.update.register_forward_hook(lambda *_: calls.append(1))

    objective.solve(torch.rand(2, shots, 3, 16, 16).double())

    assert len(calls) == steps


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
        LSTMLearner(),
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
