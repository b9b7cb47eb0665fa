"""A recurrent network that learns the update of another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.encoders import Encoder
from models.metalearning import Episodic
from models.metalearning.inner_loop import (
    Solution,
    in_float32,
    parameters_of,
    require_number,
    run_stages,
    stages_of,
    support_labels,
    support_loss,
)
from models.metalearning.learners import learners

HIDDEN = 20  # units


P = 10.0  # numbers below e^-p are not told by their logarithm


MOST_STEPS, FEWEST_STEPS = 12, 8  # at one shot; at five and more


LENGTH = 10.0  # of embeddings inside a head, at the start


@learners.register
@dataclass(frozen=True, kw_only=True)
class LSTMLearner:
    """Learn the update itself: an LSTM turns the gradients of a learner into its next weights.

    Ravi and Larochelle, 2017. https://openreview.net/forum?id=rJY0-Kcll Their algorithm 1, Train
    Meta-Learner, with M the learner (encoder and last layer), R the LSTM, Theta what is learned:

         1  Theta_0 <- random initialization
         3  for d = 1, n do
         4    D_train, D_test <- random dataset        the support and the queries of an episode
         5    theta_0 <- c_0                           c_0 is learned
         7    for t = 1, T do
         8      X_t, Y_t <- random batch from D_train  the whole support
         9      L_t <- L(M(X_t; theta_{t-1}), Y_t)
        10      c_t <- R((grad L_t, L_t); Theta_{d-1}) by equation 2
        11      theta_t <- c_t
        14    X, Y <- D_test
        15    L_test <- L(M(X; theta_T), Y)
        16    update Theta_d using grad L_test         as if grad L_t and L_t were constants

    Equation 2 is `c_t = f_t * c_{t-1} - i_t * grad L_t`: with both gates at their first biases,
    gradient descent of rate 0.01 with weight decay. All coordinates share R, so that it takes any
    number of labels; one learned row is the c_0 of each row of the last layer. T is 12 with one
    shot and 8 with five. Norms are as in `run_stages`, where the authors take the statistics of
    the queries while they meta-train.

    `learner` says what M is: the network with a last layer; or only a layer on embeddings that stay
    as they are, which can serve embeddings that are stored.
    """

    fewest_labels: ClassVar[int] = 50
    unsuited: ClassVar[str] = (
        "large encoders, but for `learner: head`: each of their numbers has an LSTM of 20 units; "
        "little time"
    )

    learner: Literal["network", "head"] = "network"

    def build(self, encoder: Encoder, *, fresh: bool) -> Episodic:
        return _Objective(encoder, self, fresh=fresh)


class _Objective(Episodic):
    clip_norm = 0.25

    def __init__(self, encoder: Encoder, options: LSTMLearner, *, fresh: bool) -> None:
        super().__init__(encoder, fresh=fresh)
        self.update = LearnedUpdate()
        self.head = self.works_in_parts = self.answers_cheaply = options.learner == "head"
        self.first = len(encoder.stages) if self.head else 0
        bound = encoder.embedding_dim**-0.5
        self.row = nn.Parameter(torch.empty(encoder.embedding_dim).uniform_(-bound, bound))
        self.offset = nn.Parameter(torch.zeros(()))
        if self.head:
            self.log_length = nn.Parameter(torch.tensor(math.log(LENGTH)))

    def prepare(self, images: Float[Tensor, "B 3 S S"]) -> Tensor:
        """Embeddings for a layer on them; or images, as the first stage gets them."""
        return self.in_parts(self.encoder, images) if self.head else self.encoder.normalised(images)

    def logits(self, support: Tensor, query: Tensor) -> Float[Tensor, "Q C"]:
        """Lines 14 and 15, in float32.

        Raises:
            InnerLoopDiverged: the inner loop came to no number.
        """
        solution = self.solve(support)
        shown = support.flatten(0, 1)
        with torch.autocast(query.device.type, enabled=False):
            both = torch.cat([shown, query]) if self.fresh else query
            answers = self._learner(solution, both, len(shown))[-len(query) :]
        require_number(answers.sum(), steps_at(support.shape[1]))
        return answers

    def solve(self, support: Tensor) -> Solution:
        """Lines 5 to 12.

        Args:
            support: what `prepare` made of the support images, (C, K, ...).

        Raises:
            InnerLoopDiverged: the loss of the learner is not a number.
        """
        ways, shots = support.shape[:2]
        shown = support.flatten(0, 1)
        labels = support_labels(ways, shots, support.device)
        with in_float32(support.device) as learns:
            start = self._start(ways)
            cell = flat(start)
            memory: Memory | None = None
            for step in range(steps_at(shots)):
                theta = cell.detach().requires_grad_()
                logits = self._learner(unflat(theta, start), shown, len(shown), remember=step == 0)
                loss = support_loss(logits, labels, step + 1)
                (gradient,) = torch.autograd.grad(loss, theta)
                with torch.set_grad_enabled(learns):
                    cell, memory = self.update(gradient, loss.detach(), cell, memory)
        return unflat(cell, start)

    def count_steps(self, shots: int) -> int:
        """T."""
        return steps_at(shots)

    def initial(self, means: Float[Tensor, "C D"]) -> Solution:
        """c_0, of as many labels as there are means of features."""
        return self._start(len(means))

    def step(
        self,
        solution: Solution,
        gradients: Sequence[Tensor],
        loss: Float[Tensor, ""],
        memory: Sequence[Tensor] = (),
    ) -> tuple[Solution, Sequence[Tensor]]:
        """Lines 10 and 11.

        Args:
            gradients: of `solution.tensors`, in their order.
            memory: what the step before returned.
        """
        gradient, past = flat(solution.replaced(gradients)), Memory(*memory) if memory else None
        cell, remembered = self.update(gradient, loss, flat(solution), past)
        return unflat(cell, solution), remembered

    def _start(self, ways: int) -> Solution:
        """c_0."""
        weights = {} if self.head else parameters_of(stages_of(self.encoder))
        return Solution(weights, self.row.expand(ways, -1), self.offset.expand(ways))

    def _learner(
        self, solution: Solution, maps: Tensor, support: int, *, remember: bool = False
    ) -> Float[Tensor, "B C"]:
        """M: the logits of images, or of embeddings."""
        weights, rows, offsets = solution
        if self.head:
            return maps.to(rows.dtype) * self.log_length.exp() @ rows.T + offsets
        features = run_stages(
            stages_of(self.encoder),
            weights,
            maps,
            support=support if self.fresh else None,
            remember=remember,
        )
        return features.flatten(1) @ rows.T + offsets


class Memory(NamedTuple):
    """What the update remembers of each of n coordinates."""

    hidden: Tensor  # h, (20, n)
    inner_cell: Tensor  # of the LSTM, (20, n)
    past: Tensor  # f_{t-1} and i_{t-1} before their sigmoid, (2, n)


class LearnedUpdate(nn.Module):
    """R: an LSTM, and two gates on what it says; all coordinates share their weights."""

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
        loss: Float[Tensor, ""],
        cell: Tensor,
        memory: Memory | None,
    ) -> tuple[Tensor, Memory]:
        """Line 10.

        Args:
            gradient: of each coordinate, (n,), which no gradient follows.
            loss: no gradient follows it either.
            cell: c_{t-1}, (n,).
        """
        if memory is None:
            zeros = [gradient.new_zeros(rows, len(gradient)) for rows in (HIDDEN, HIDDEN, 2)]
            memory = Memory(*zeros)
        hidden, inner_cell, past = memory
        by_gradient, by_loss, by_hidden = torch.split(self.lstm, [2, 2, HIDDEN], dim=1)
        shared = by_loss @ preprocessed(loss[None]) + self.lstm_bias[:, None]  # by all coordinates
        units = torch.addmm(shared, by_gradient, preprocessed(gradient))  # (80, n)
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


def steps_at(shots: int) -> int:
    """T."""
    return max(FEWEST_STEPS, MOST_STEPS + 1 - shots)


def preprocessed(values: Float[Tensor, " X"]) -> Float[Tensor, "2 X"]:
    """`(log|x| / p, sign x)`, or `(-1, e^p x)` where |x| is below e^-p.

    Andrychowicz et al., 2016, appendix A. https://arxiv.org/abs/1606.04474
    """
    large = values.abs() >= math.exp(-P)
    logarithms = values.abs().clamp_min(math.exp(-P)).log() / P
    return torch.stack([logarithms, torch.where(large, values.sign(), math.exp(P) * values)])


def flat(solution: Solution) -> Tensor:
    """All numbers of a solution, (n,)."""
    return torch.cat([value.reshape(-1) for value in solution.tensors])


def unflat(values: Tensor, like: Solution) -> Solution:
    """The solution that has these numbers."""
    shapes = [value.shape for value in like.tensors]
    parts = torch.split(values, [shape.numel() for shape in shapes])
    return like.replaced([v.view(shape) for v, shape in zip(parts, shapes, strict=True)])
