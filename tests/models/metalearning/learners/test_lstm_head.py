"""A recurrent network that makes the steps of a layer on embeddings that stay."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.metalearning.learners.lstm_head import LSTMHead

GENERATOR = torch.Generator().manual_seed(0)
SUPPORT = F.normalize(torch.randn(6, 5, generator=GENERATOR), dim=1).double()
QUERIES = F.normalize(torch.randn(4, 5, generator=GENERATOR), dim=1).double()
LABELS = torch.tensor([0, 0, 0, 1, 1, 2])
SHARES = torch.tensor([1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 2, 1]).double()


def network(**options):
    """In float64, with weights that have left the start."""
    torch.manual_seed(0)
    head = LSTMHead(**({"steps": 3, "width": 2} | options)).network(5).double()
    for parameter in head.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return head


def answers(head) -> Tensor:
    return head.answer(head.condense(SUPPORT, LABELS, 3), QUERIES)


def reference(head) -> Tensor:
    """By autograd, as the docstring has it; gradient and loss of the support are numbers."""
    down, up = head.map.down.weight, head.map.up.weight

    def prototypes(vectors: Tensor) -> Tensor:
        means = torch.stack([SUPPORT[label == LABELS].mean(dim=0) for label in range(3)])
        mapped, others = (v + v @ down.T @ up.T for v in (means, vectors))
        return 2 * others @ mapped.T - mapped.square().sum(dim=1)

    def layer(vectors: Tensor, values: Tensor) -> Tensor:
        rows, offsets = values.view(3, 3).split([2, 1], dim=1)
        return vectors @ down.T @ rows.T + offsets.T

    cell, memory = torch.zeros(9).double(), None
    for _ in range(head.steps):
        theta = cell.detach().requires_grad_()
        logits = prototypes(SUPPORT) + layer(SUPPORT, theta)
        loss = F.cross_entropy(logits, LABELS, reduction="none") @ SHARES
        (gradient,) = torch.autograd.grad(loss, theta)
        cell, memory = head.update(gradient, loss.detach(), cell, memory)
    return head.log_scale.exp() * prototypes(QUERIES) + head.gain * layer(QUERIES, cell)


def test_steps_are_those_of_the_learned_update_and_are_learned_through():
    head = network()

    ours, expected = answers(head), reference(head)

    assert torch.allclose(ours, expected, atol=1e-6)
    slopes = [
        torch.autograd.grad(values.square().sum(), list(head.parameters()))
        for values in (ours, expected)
    ]
    for slope, wanted in zip(*slopes, strict=True):
        assert torch.allclose(slope, wanted, atol=1e-6)
        assert bool((slope != 0).any())


def test_it_takes_as_many_steps_as_it_has_learned():
    head = network(steps=4)
    calls: list[int] = []
    head.update.register_forward_hook(lambda *_: calls.append(1))

    answers(head)

    assert len(calls) == 4


@pytest.mark.parametrize("options", [{"steps": 0}, {"width": 0}])
def test_options_out_of_bounds_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        LSTMHead(**options)
