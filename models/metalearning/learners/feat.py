"""FEAT: prototypes that look at each other."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from models.heads.network import (
    SCALE,
    Condensed,
    HeadNetwork,
    LinearNetwork,
    class_prototypes,
    prototypes_without,
    without_single_shots,
)
from models.metalearning.learners import learners
from models.registry import require_within

NUMBERS = 1 << 22  # of attention and its results that are held at a time: 16 MB


NEVER = -1e30  # attention to what is not there


@learners.register
@dataclass(frozen=True, kw_only=True)
class Feat:
    """Adapt the prototypes of labels to each other by attention, so that they are told apart.

    Ye et al., 2020, equations 5 and 6. https://arxiv.org/abs/1812.03664 What it makes are
    prototypes again, so that it serves as fast as they do. Its attention is of low rank, adds
    nothing at the start, and has neither the dropout nor the norm of layers that theirs ends with:
    a norm would not let it start as plain prototypes.
    """

    fewest_labels: ClassVar[int] = 20
    unsuited: ClassVar[str] = "an encoder that was itself meta-trained, which leaves it little"

    width: int = 64  # of keys and values

    def __post_init__(self) -> None:
        require_within(self, "width", 1, 4096)

    def network(self, dim: int) -> HeadNetwork:
        return _Network(dim, self.width)


class _Network(LinearNetwork):
    exact = True

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(SCALE).log())
        self.query, self.key, self.value = (nn.Linear(dim, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, dim, bias=False)
        for part in (self.query, self.key):
            nn.init.normal_(part.weight)  # of vectors of unit length
        nn.init.zeros_(self.out.weight)

    def condense(
        self, support: Float[Tensor, "M D"], targets: Int[Tensor, " M"], classes: int
    ) -> Condensed:
        """-s |q - p|^2, but for s |q|^2, which all classes share; p is an adapted prototype."""
        prototypes = class_prototypes(support, targets, classes)
        query, key, value = (part(prototypes) for part in (self.query, self.key, self.value))
        attention = (query @ key.T / query.shape[1] ** 0.5).softmax(dim=1)  # (C, C)
        adapted = prototypes + self.out(attention @ value)
        scale = self.log_scale.exp()
        return Condensed(2 * scale * adapted, (-scale * adapted.square().sum(dim=1),))

    def left_out(
        self,
        support: Float[Tensor, "M D"],
        targets: Int[Tensor, " M"],
        classes: int,
        rows: Int[Tensor, " K"],
    ) -> Float[Tensor, "K C"]:
        """Only the prototype of the own class changes, but all look at it."""
        prototypes = class_prototypes(support, targets, classes)
        shots = torch.bincount(targets, minlength=classes)
        size = max(1, NUMBERS // (classes * (classes + 6 * self.query.out_features)))
        log_odds = [
            self._without(prototypes, support[part], targets[part], shots[targets[part]], changed)
            for part, changed in zip(
                torch.split(rows, size),
                torch.split(prototypes_without(support, targets, classes, rows), size),
                strict=True,
            )
        ]
        return without_single_shots(torch.cat(log_odds), targets[rows], shots)

    def _without(
        self,
        prototypes: Float[Tensor, "C D"],
        left_out: Float[Tensor, "K D"],
        labels: Int[Tensor, " K"],
        shots: Int[Tensor, " K"],
        changed: Float[Tensor, "K D"],
    ) -> Float[Tensor, "K C"]:
        """The log odds of rows where the prototype of their class is another.

        By products with what is attended to, v, so that adapted prototypes p + O v are never made.
        """
        own = F.one_hot(labels, len(prototypes)).bool()  # (K, C)
        out = self.out.weight
        maps = torch.cat([self.query.weight, self.key.weight, self.value.weight, out.T]).T
        query, key, value, cross = torch.where(
            own[..., None], (changed @ maps)[:, None], prototypes @ maps
        ).chunk(4, dim=2)  # each (K, C, P)
        lost = own & (shots == 1)[:, None]
        attention = (query @ key.mT / out.shape[1] ** 0.5).masked_fill(lost[:, None], NEVER)
        attended = attention.softmax(dim=2) @ value
        dots = torch.where(own, (left_out * changed).sum(1, keepdim=True), left_out @ prototypes.T)
        dots = dots + (attended @ (left_out @ out)[..., None]).squeeze(2)
        lengths = torch.where(
            own, changed.square().sum(1, keepdim=True), prototypes.square().sum(1)
        )
        lengths = lengths + (attended * (2 * cross + attended @ (out.T @ out))).sum(dim=2)
        log_odds: Tensor = self.log_scale.exp() * (2 * dots - lengths)
        return log_odds
