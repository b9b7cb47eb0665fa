"""Gradient steps of a layer on embeddings that stay."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.metalearning.inner_loop import InnerLoopDiverged
from models.metalearning.learners.anil import ANIL

GENERATOR = torch.Generator().manual_seed(0)
SUPPORT = F.normalize(torch.randn(6, 5, generator=GENERATOR), dim=1).double()
QUERIES = F.normalize(torch.randn(4, 5, generator=GENERATOR), dim=1).double()
LABELS = torch.tensor([0, 0, 0, 1, 1, 2])
SHARES = torch.tensor([1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 2, 1]).double()


def network(**options):
    """In float64, with weights that have left the start."""
    torch.manual_seed(0)
    head = ANIL(**({"steps": 3, "width": 2} | options)).network(5).double()
    for parameter in head.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return head


def answers(head) -> Tensor:
    return head.answer(head.condense(SUPPORT, LABELS, 3), QUERIES)


def reference(head, start: str) -> Tensor:
    """By autograd, as the docstring has it."""
    down, up = head.map.down.weight, head.map.up.weight

    def prototypes(vectors: Tensor) -> Tensor:
        if start == "shared":
            return torch.zeros(len(vectors), 3).double()
        means = torch.stack([SUPPORT[label == LABELS].mean(dim=0) for label in range(3)])
        mapped, others = (v + v @ down.T @ up.T for v in (means, vectors))
        return 2 * others @ mapped.T - mapped.square().sum(dim=1)

    rows = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    offsets = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for of_rows, of_offsets in head.log_rates.exp():
        logits = prototypes(SUPPORT) + SUPPORT @ down.T @ rows.T + offsets
        loss = F.cross_entropy(logits, LABELS, reduction="none") @ SHARES
        by_rows, by_offsets = torch.autograd.grad(loss, (rows, offsets), create_graph=True)
        rows, offsets = rows - of_rows * by_rows, offsets - of_offsets * by_offsets
    layer = QUERIES @ down.T @ rows.T + offsets
    if start == "shared":
        return layer
    return head.log_scale.exp() * prototypes(QUERIES) + head.gain * layer


@pytest.mark.parametrize("start", ["prototypes", "shared"])
def test_steps_are_those_of_gradient_descent_and_are_learned_through(start):
    head = network(start=start)

    ours, expected = answers(head), reference(head, start)

    assert torch.allclose(ours, expected, atol=1e-6)
    parameters = dict(head.named_parameters())
    if start == "shared":
        del parameters["map.up.weight"]
    slopes = [
        torch.autograd.grad(values.square().sum(), list(parameters.values()))
        for values in (ours, expected)
    ]
    for name, slope, wanted in zip(parameters, *slopes, strict=True):
        assert torch.allclose(slope, wanted, atol=1e-6), name
        assert bool((slope != 0).any()), name


def test_a_shared_start_tells_nothing_before_it_steps():
    head = network(start="shared", steps=1)
    head.log_rates.data.fill_(-math.inf)

    assert torch.equal(answers(head), torch.zeros(4, 3).double())


def test_each_step_has_a_rate_of_rows_and_of_offsets():
    rates = network(rate=0.25, steps=4).log_rates

    assert rates.shape == (4, 2)
    begun = ANIL(rate=0.25).network(5).get_parameter("log_rates")
    assert torch.allclose(begun.exp(), torch.tensor(0.25))


def test_a_shot_that_is_there_twice_counts_as_labels_do():
    head = network()
    twice = torch.tensor([0, 1, 2, 3, 4, 5, 5])

    doubled = head.answer(head.condense(SUPPORT[twice], LABELS[twice], 3), QUERIES)

    assert torch.allclose(doubled, answers(head), atol=1e-12)


def test_an_inner_rate_that_is_too_high_is_named():
    head = network()
    head.log_rates.data[0] += 800.0

    with pytest.raises(InnerLoopDiverged, match="lower the inner rate") as raised:
        answers(head)

    assert raised.value.step == 2


@pytest.mark.parametrize("options", [{"steps": 0}, {"rate": 0.0}, {"width": 0}])
def test_options_out_of_bounds_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        ANIL(**options)
