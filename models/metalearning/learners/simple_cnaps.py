"""Nearest mean under a shared covariance, inside of episodes."""

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

SCALE = 10.0  # of half the squared distance on the sphere, at the start


@learners.register
@dataclass(frozen=True, kw_only=True)
class SimpleCNAPS:
    """Solve each episode by its means and the covariance around them, and learn through both.

    As Simple CNAPS (Bateni et al., 2020, https://arxiv.org/abs/1912.03432), but with one covariance
    that the labels share, which is what the head `mahalanobis` serves: W / n + s I, where W is the
    scatter within labels and s is learned. Its inverse is applied by the identity of Woodbury
    (1950), which needs a system no larger than the episode has shots, and no eigenvalues, whose
    gradients have no bound where two are equal.
    """

    fewest_labels: ClassVar[int] = 20
    unsuited: ClassVar[str] = "one shot alone, where there is nothing to learn a covariance from"

    shrinkage: float = 0.3  # s over the mean variance of vectors of unit length, at the start

    def __post_init__(self) -> None:
        require_within(self, "shrinkage", 1e-3, 1e3)

    def build(self, encoder: Encoder, *, fresh: bool) -> Episodic:
        return _Objective(encoder, self, fresh=fresh)


class _Objective(Episodic):
    def __init__(self, encoder: Encoder, options: SimpleCNAPS, *, fresh: bool) -> None:
        super().__init__(encoder, fresh=fresh)
        start = options.shrinkage / encoder.embedding_dim
        self.log_shrinkage = nn.Parameter(torch.tensor(math.log(start)))
        self.log_scale = nn.Parameter(torch.tensor(math.log(SCALE * start)))

    def prepare(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        return self.in_parts(self.encoder, images)

    def logits(
        self, support: Float[Tensor, "C K D"], query: Float[Tensor, "Q D"]
    ) -> Float[Tensor, "Q C"]:
        """-a (x - c)' (W / n + s I)^-1 (x - c) / 2 but for what is the same for all, in float32."""
        support, shrinkage = support.float(), self.log_shrinkage.exp()
        means = support.mean(dim=1)
        within = (support - means[:, None]).flatten(0, 1)  # (C K, D)
        with in_full_precision(within.device):
            weights = _inverse_times(within, shrinkage, means)
            dots = query.float() @ weights.T - (weights * means).sum(dim=1) / 2
        logits: Tensor = self.log_scale.exp() * dots
        return logits


def _inverse_times(
    within: Float[Tensor, "M D"], shrinkage: Float[Tensor, ""], vectors: Float[Tensor, "C D"]
) -> Float[Tensor, "C D"]:
    """(X'X / n + s I)^-1 v = (v - X'(n s I + X X')^-1 X v) / s, for rows v."""
    system = within @ within.T + len(within) * shrinkage * torch.eye(
        len(within), device=within.device
    )
    inside = torch.linalg.solve(system, within @ vectors.T)
    solved: Tensor = (vectors - inside.T @ within) / shrinkage
    return solved
