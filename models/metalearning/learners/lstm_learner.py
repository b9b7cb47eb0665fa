"""A recurrent network that learns the update of another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.encoders import Encoder
from models.metalearning import Episodic
from models.metalearning.inner_loop import (
    InnerLoopObjective,
    Solution,
    in_float32,
    parameters_of,
    stages_of,
    support_labels,
    support_loss,
)
from models.metalearning.learned_update import LearnedUpdate, Memory
from models.metalearning.learners import learners

MOST_STEPS, FEWEST_STEPS = 12, 8  # at one shot; at five and more


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
    the queries while they meta-train. Of a layer on embeddings that stay, `lstm_head` learns the
    steps.
    """

    fewest_labels: ClassVar[int] = 50
    unsuited: ClassVar[str] = (
        "large encoders, each of whose numbers has an LSTM of 20 units; little time"
    )
    as_heads: ClassVar[tuple[str, ...]] = ("lstm_head",)  # methods that do the same on embeddings

    def build(self, encoder: Encoder, *, fresh: bool) -> Episodic:
        return _Objective(encoder, fresh=fresh)


class _Objective(InnerLoopObjective):
    clip_norm = 0.25

    def __init__(self, encoder: Encoder, *, fresh: bool) -> None:
        super().__init__(encoder, fresh=fresh)
        self.update = LearnedUpdate()
        bound = encoder.embedding_dim**-0.5
        self.row = nn.Parameter(torch.empty(encoder.embedding_dim).uniform_(-bound, bound))
        self.offset = nn.Parameter(torch.zeros(()))

    def solve(self, support: Tensor) -> Solution:
        """Lines 5 to 12."""
        ways, shots = support.shape[:2]
        shown = support.flatten(0, 1)
        labels = support_labels(ways, shots, support.device)
        with in_float32(support.device) as learns:
            start = self._start(ways)
            cell = flat(start)
            memory: Memory | None = None
            for step in range(steps_at(shots)):
                theta = cell.detach().requires_grad_()
                logits = self.answers(unflat(theta, start), shown, len(shown), remember=step == 0)
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
        weights = parameters_of(stages_of(self.encoder))
        return Solution(weights, self.row.expand(ways, -1), self.offset.expand(ways))


def steps_at(shots: int) -> int:
    """T."""
    return max(FEWEST_STEPS, MOST_STEPS + 1 - shots)


def flat(solution: Solution) -> Tensor:
    """All numbers of a solution, (n,)."""
    return torch.cat([value.reshape(-1) for value in solution.tensors])


def unflat(values: Tensor, like: Solution) -> Solution:
    """The solution that has these numbers."""
    shapes = [value.shape for value in like.tensors]
    parts = torch.split(values, [shape.numel() for shape in shapes])
    return like.replaced([v.view(shape) for v, shape in zip(parts, shapes, strict=True)])
