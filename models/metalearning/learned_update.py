"""The recurrent network that makes the steps of an inner loop."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

HIDDEN = 20  # units


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
        hidden, inner_cell, past = memory
        by_gradient, by_loss, by_hidden = torch.split(self.lstm, [2, 2, HIDDEN], dim=1)
        units = by_loss @ preprocessed(loss.reshape(-1)) + self.lstm_bias[:, None]
        units = torch.addmm(units, by_gradient, preprocessed(gradient))  # (80, n)
        units = torch.addmm(units, by_hidden, hidden)
        doors, proposed = torch.split(units, [3 * HIDDEN, HIDDEN])
        enters, stays, leaves = doors.sigmoid().chunk(3)
        inner_cell = torch.addcmul(stays * inner_cell, enters, proposed.tanh())
        hidden = leaves * inner_cell.tanh()
        by_hidden, by_cell, by_past = torch.split(self.gates, [HIDDEN, 1, 1], dim=1)
        gates = torch.addcmul(self.gate_bias[:, None], by_cell, cell)
        gates = torch.addmm(torch.addcmul(gates, by_past, past), by_hidden, hidden)  # (2, n)
        keep, rate = gates.sigmoid().unbind()
        return torch.addcmul(keep * cell, rate, -gradient), Memory(hidden, inner_cell, gates)


def preprocessed(values: Float[Tensor, " X"]) -> Float[Tensor, "2 X"]:
    """`(log|x| / p, sign x)`, or `(-1, e^p x)` where |x| is below e^-p.

    Andrychowicz et al., 2016, appendix A. https://arxiv.org/abs/1606.04474
    """
    large = values.abs() >= math.exp(-P)
    logarithms = values.abs().clamp_min(math.exp(-P)).log() / P
    return torch.stack([logarithms, torch.where(large, values.sign(), math.exp(P) * values)])
