"""The recurrent network that makes the steps of an inner loop."""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

aten = torch.ops.aten

HIDDEN = 20  # units


PART = 4096  # coordinates, of a matrix product


P = 10.0  # numbers below e^-p are not told by their logarithm


class Memory(NamedTuple):
    """What the update remembers of each of n coordinates."""

    hidden: Tensor  # h, (20, n)
    inner_cell: Tensor  # of the LSTM, (20, n)
    past: Tensor  # f_{t-1} and i_{t-1} before their sigmoid, (2, n)


class LearnedUpdate(nn.Module):
    """An LSTM, and two gates on what it says; all coordinates share their weights.

    Ravi and Larochelle, 2017, equation 2: `c_t = f_t * c_{t-1} - i_t * grad L_t`.
    https://openreview.net/forum?id=rJY0-Kcll With both gates at their first biases it is gradient
    descent of rate 0.01 with weight decay.
    """

    def __init__(self) -> None:
        super().__init__()
        # Inputs of the LSTM: two of the gradient, two of the loss, h. Of gates: h, c, own past.
        self.lstm = nn.Parameter(torch.empty(4 * HIDDEN, 4 + HIDDEN).uniform_(-0.01, 0.01))
        self.lstm_bias = nn.Parameter(torch.empty(4 * HIDDEN).uniform_(-0.01, 0.01))
        self.gates = nn.Parameter(torch.empty(2, HIDDEN + 2).uniform_(-0.01, 0.01))
        biases = torch.cat([torch.empty(1).uniform_(4, 5), torch.empty(1).uniform_(-5, -4)])
        self.gate_bias = nn.Parameter(biases)

    def forward(
        self,
        gradient: Tensor,
        loss: Float[Tensor, "*n"],
        cell: Tensor,
        memory: Memory | None,
    ) -> tuple[Tensor, Memory]:
        """The next values of the coordinates, and what the step after that has to know.

        Args:
            gradient: of each coordinate, (n,), which no gradient follows.
            loss: of all coordinates, or of each, (n,); no gradient follows it either.
            cell: c_{t-1}, (n,).
        """
        if memory is None:
            zeros = [gradient.new_zeros(rows, len(gradient)) for rows in (HIDDEN, HIDDEN, 2)]
            memory = Memory(*zeros)
        by_loss = preprocessed(loss.reshape(-1)).expand(2, len(gradient))
        seen = torch.cat([preprocessed(gradient), by_loss])  # (4, n)
        lstm = torch.cat([self.lstm, self.lstm_bias[:, None]], dim=1)
        gates = torch.cat([self.gates, self.gate_bias[:, None]], dim=1)
        cell, *remembered = _Step.apply(seen, gradient, cell, *memory, lstm, gates)
        return cell, Memory(*remembered)


class _Step(torch.autograd.Function):
    """Its derivatives are written out, and leave the least behind: half of the CPU time."""

    @staticmethod
    def forward(
        ctx: Any,
        seen: Tensor,
        gradient: Tensor,
        cell: Tensor,
        hidden: Tensor,
        inner: Tensor,
        past: Tensor,
        lstm: Tensor,
        gates: Tensor,
    ) -> tuple[Tensor, ...]:
        inputs = torch.cat([seen, hidden, torch.ones_like(past[:1])])  # (25, n)
        units = _product(lstm, inputs)  # (80, n)
        units[: 3 * HIDDEN].sigmoid_()
        enters, stays, leaves, proposed = torch.split(units, HIDDEN)
        _tanh_(proposed)
        inner_next = torch.addcmul(stays * inner, enters, proposed)
        squashed = _tanh_(inner_next.clone())
        hidden_next = leaves * squashed
        own = torch.stack([cell, torch.ones_like(cell)])
        past_next = _product(gates[:, :HIDDEN], hidden_next)  # (2, n)
        past_next.addcmul_(gates[:, HIDDEN + 1 : -1], past).addmm_(gates[:, [HIDDEN, -1]], own)
        open_gates = past_next.sigmoid()
        keep, rate = open_gates
        cell_next = torch.addcmul(keep * cell, rate, gradient, value=-1)
        ctx.save_for_backward(
            inputs,
            units,
            squashed,
            hidden_next,
            open_gates,
            gradient,
            cell,
            inner,
            past,
            lstm,
            gates,
        )
        return cell_next, hidden_next, inner_next, past_next

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        inputs, units, squashed, hidden_next, open_gates, *values = ctx.saved_tensors
        gradient, cell, inner, past, lstm, gates = values
        by_cell, by_hidden, by_inner, by_past = slopes
        by_gates = torch.stack([cell, -gradient]).mul_(by_cell)
        by_gates = aten.sigmoid_backward(by_gates, open_gates).add_(by_past)
        of_gates = torch.cat(
            [
                by_gates @ hidden_next.T,
                (by_gates @ cell)[:, None],
                (by_gates * past).sum(dim=1, keepdim=True),
                by_gates.sum(dim=1, keepdim=True),
            ],
            dim=1,
        )
        by_hidden = _product(gates[:, :HIDDEN].T, by_gates).add_(by_hidden)
        enters, stays, leaves, proposed = torch.split(units, HIDDEN)
        by_units = torch.empty_like(units)
        by_enters, by_stays, by_leaves, by_proposed = torch.split(by_units, HIDDEN)
        torch.mul(by_hidden, squashed, out=by_leaves)
        by_inner = aten.tanh_backward(by_hidden.mul_(leaves), squashed).add_(by_inner)
        torch.mul(by_inner, proposed, out=by_enters)
        torch.mul(by_inner, inner, out=by_stays)
        torch.mul(by_inner, enters, out=by_proposed)
        doors, by_doors = units[: 3 * HIDDEN], by_units[: 3 * HIDDEN]
        aten.sigmoid_backward.grad_input(by_doors, doors, grad_input=by_doors)
        aten.tanh_backward.grad_input(by_proposed, proposed, grad_input=by_proposed)
        return (
            None,
            None,
            torch.addmv(open_gates[0] * by_cell, by_gates.T, gates[:, HIDDEN]),
            _product(lstm[:, 4:-1].T, by_units),
            by_inner.mul_(stays),
            gates[:, HIDDEN + 1 : -1] * by_gates,
            by_units @ inputs.T,
            of_gates,
        )


def _product(weights: Tensor, values: Tensor) -> Tensor:
    """A product with a row of numbers for each coordinate, (rows, n).

    By parts on CPUs, whose libraries take two to three times as long for all at once.
    """
    weights = weights.contiguous()
    if values.device.type != "cpu":
        return weights @ values
    product = values.new_empty(len(weights), values.shape[1])
    for out, part in zip(
        torch.split(product, PART, dim=1), torch.split(values, PART, dim=1), strict=True
    ):
        torch.mm(weights, part, out=out)
    return product


def _tanh_(values: Tensor) -> Tensor:
    """In place, by the sigmoid, which takes a third of the time."""
    return values.mul_(2).sigmoid_().mul_(2).sub_(1)


def preprocessed(values: Float[Tensor, " X"]) -> Float[Tensor, "2 X"]:
    """`(log|x| / p, sign x)`, or `(-1, e^p x)` where |x| is below e^-p.

    Andrychowicz et al., 2016, appendix A. https://arxiv.org/abs/1606.04474
    """
    large = values.abs() >= math.exp(-P)
    logarithms = values.abs().clamp_min(math.exp(-P)).log() / P
    return torch.stack([logarithms, torch.where(large, values.sign(), math.exp(P) * values)])
