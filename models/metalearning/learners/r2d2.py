"""Ridge regression inside of episodes."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.encoders import Encoder
from models.metalearning import Episodic, in_full_precision
from models.metalearning.learners import learners
from models.registry import require_within

SCALE = 10.0  # of estimates, at the start


@learners.register
@dataclass(frozen=True, kw_only=True)
class R2D2:
    """Solve each episode by ridge regression onto one-hot labels, and learn through the solution.

    R2-D2 (Bertinetto et al., 2019, equation 7). https://arxiv.org/abs/1805.08136 It trains what the
    head `ridge` serves. W = F'(FF' + l I)^-1 Y needs a system no larger than the episode has shots;
    the penalty, and a scale and an offset of the estimates, are learned.
    """

    fewest_labels: ClassVar[int] = 20
    unsuited: ClassVar[str] = "many shots, where a covariance tells more"

    penalty: float = 1.0  # l, at the start

    def __post_init__(self) -> None:
        require_within(self, "penalty", 1e-4, 1e4)

    def build(self, encoder: Encoder, *, fresh: bool) -> Episodic:
        return _Objective(encoder, self, fresh=fresh)


class _Objective(Episodic):
    def __init__(self, encoder: Encoder, options: R2D2, *, fresh: bool) -> None:
        super().__init__(encoder, fresh=fresh)
        self.log_penalty = nn.Parameter(torch.tensor(math.log(options.penalty)))
        self.log_scale = nn.Parameter(torch.tensor(math.log(SCALE)))
        self.offset = nn.Parameter(torch.tensor(0.0))

    def prepare(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        return self.in_parts(self.encoder, images)

    def logits(
        self, support: Float[Tensor, "C K D"], query: Float[Tensor, "Q D"]
    ) -> Float[Tensor, "Q C"]:
        """`a F_q W + b`, in float32."""
        ways, shots, _ = support.shape
        features = support.flatten(0, 1).float()  # (C K, D)
        truth = torch.eye(ways, device=features.device).repeat_interleave(shots, dim=0)
        penalty = self.log_penalty.exp() * torch.eye(len(features), device=features.device)
        with in_full_precision(features.device):
            dual = torch.linalg.solve(features @ features.T + penalty, truth)
            estimates = query.float() @ features.T @ dual
        logits: Tensor = self.log_scale.exp() * estimates + self.offset
        return logits
