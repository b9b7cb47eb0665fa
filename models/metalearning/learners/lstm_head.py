"""A recurrent network that makes the steps of a layer on embeddings that stay."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from models.heads.network import HeadNetwork
from models.metalearning.heads import InnerLoopNetwork, SupportLoss
from models.metalearning.learned_update import LearnedUpdate
from models.metalearning.learners import learners
from models.registry import require_within


@learners.register
@dataclass(frozen=True, kw_only=True)
class LSTMHead:
    """Let an LSTM make the steps that fit a linear layer on embeddings to the support.

    Ravi and Larochelle, 2017, with a layer for the learner: see `lstm_learner`, which has their
    algorithm. https://openreview.net/forum?id=rJY0-Kcll As there, gradient and loss of the support
    are numbers to the LSTM. Here c_0 are prototypes, which the steps correct, and which it starts
    as; and there are as many steps however many shots there are. What comes out is linear in
    embeddings, so that it serves as fast as prototypes do.
    """

    fewest_labels: ClassVar[int] = 50
    unsuited: ClassVar[str] = "little time: `anil` learns as much in less"

    steps: int = 3
    width: int = 32  # of what is made of embeddings; each number of the layer has an LSTM

    def __post_init__(self) -> None:
        require_within(self, "steps", 1, 100)
        require_within(self, "width", 1, 4096)

    def network(self, dim: int) -> HeadNetwork:
        return _Network(dim, self)


class _Network(InnerLoopNetwork):
    def __init__(self, dim: int, options: LSTMHead) -> None:
        super().__init__(dim, options.width)
        self.steps = options.steps
        self.update = LearnedUpdate()

    def solve(self, support: SupportLoss, layers: Float[Tensor, "R C P"]) -> Float[Tensor, "R C P"]:
        """`c_t = f_t * c_{t-1} - i_t * grad L_t`, with gates by what is learned."""
        cell, memory = layers.flatten(), None
        for step in range(1, self.steps + 1):
            gradients, losses = support.slope(cell.view_as(layers), step)
            loss = losses.detach().repeat_interleave(layers[0].numel())
            cell, memory = self.update(gradients.detach().flatten(), loss, cell, memory)
        return cell.view_as(layers)
