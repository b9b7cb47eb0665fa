"""Almost no inner loop: gradient steps of a layer on embeddings that stay."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.heads.network import HeadNetwork
from models.metalearning.heads import InnerLoopNetwork, SupportLoss
from models.metalearning.learners import learners
from models.registry import require_within


@learners.register
@dataclass(frozen=True, kw_only=True)
class ANIL:
    """Learn how a few gradient steps on the support fit a linear layer on embeddings.

    Raghu et al., 2020: MAML of which the steps change the last layer alone.
    https://arxiv.org/abs/1909.09157 Here the encoder stays, and what is learned before the layer is
    a linear map of its embeddings. The rates are learned, those of each step and of rows and
    offsets on their own (Antoniou et al., 2019, https://arxiv.org/abs/1810.09502), through
    derivatives of second order. What comes out is linear in embeddings, so that it serves as fast
    as prototypes do.

    `start` says where the layer begins. `prototypes`: with the scores of a prototypical network
    (Triantafillou et al., 2020, https://arxiv.org/abs/1903.03096), which steps correct, and which
    it starts as. `shared`: one row for all labels (Ye and Chao, 2022,
    https://arxiv.org/abs/2106.16245), which softmax does not tell from zeros.
    """

    fewest_labels: ClassVar[int] = 20
    unsuited: ClassVar[str] = "little time: `projections` learns about as much in less"

    start: Literal["prototypes", "shared"] = "prototypes"
    steps: int = 5
    rate: float = 0.1  # of gradient descent, at the start
    width: int = 64  # of what is made of embeddings

    def __post_init__(self) -> None:
        require_within(self, "steps", 1, 100)
        require_within(self, "rate", 0, 100, exclusive=True)
        require_within(self, "width", 1, 4096)

    def network(self, dim: int) -> HeadNetwork:
        return _Network(dim, self)


class _Network(InnerLoopNetwork):
    def __init__(self, dim: int, options: ANIL) -> None:
        super().__init__(dim, options.width, corrects=options.start == "prototypes")
        log_rates = torch.full((options.steps, 2), math.log(options.rate))
        self.log_rates = nn.Parameter(log_rates)  # of rows, and of offsets

    def solve(self, support: SupportLoss, layers: Float[Tensor, "R C P"]) -> Float[Tensor, "R C P"]:
        """`w <- w - a grad L_support(w)`."""
        for step, (of_rows, of_offsets) in enumerate(self.log_rates.exp(), start=1):
            gradient, _ = support.slope(layers, step)
            rates = torch.cat([of_rows.expand(layers.shape[2] - 1), of_offsets[None]])
            layers = layers - rates * gradient
        return layers
