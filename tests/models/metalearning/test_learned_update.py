"""The recurrent network that makes the steps of an inner loop."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call

from models.metalearning.learned_update import LearnedUpdate, preprocessed

GENERATOR = torch.Generator().manual_seed(0)


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


def test_gradients_go_through_steps_to_where_they_start(monkeypatch):
    monkeypatch.setattr("models.metalearning.learned_update.PART", 2)  # several parts
    torch.manual_seed(0)
    update = LearnedUpdate().double()
    weights = [torch.randn_like(value, requires_grad=True) for value in update.parameters()]
    names = [name for name, _ in update.named_parameters()]
    gradients, losses = torch.randn(2, 3).double(), torch.tensor([1.6, 0.3]).double()

    def two_steps(cell, *values):
        replaced, memory = dict(zip(names, values, strict=True)), None
        for gradient, loss in zip(gradients, losses, strict=True):
            arguments = (gradient, loss, cell, memory)
            cell, memory = functional_call(update, replaced, arguments)
        assert memory is not None
        return cell, *memory

    start = torch.randn(3).double().requires_grad_()
    assert gradcheck(two_steps, (start, *weights), fast_mode=True)


def test_it_starts_as_gradient_descent():
    update = LearnedUpdate()

    forget, enter = update.gate_bias.tolist()

    assert 4 <= forget <= 5
    assert -5 <= enter <= -4
    weights = torch.cat([p.flatten() for p in (update.lstm, update.lstm_bias, update.gates)])
    assert float(weights.abs().max()) <= 0.01
    assert float(weights.std()) == pytest.approx(0.01 / math.sqrt(3), rel=0.1)


def test_small_numbers_are_told_apart():
    values = torch.tensor([1.0, -math.exp(5), 0.0, math.exp(-11)])

    scaled = preprocessed(values)

    expected = torch.tensor([[0.0, 0.5, -1.0, -1.0], [1.0, -1.0, 0.0, math.exp(-1)]])
    assert torch.allclose(scaled, expected, atol=1e-6)
