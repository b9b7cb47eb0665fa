"""Relation networks, of vectors."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.heads.network import Condensed, HeadNetwork, PrototypeNetwork, class_prototypes
from models.metalearning.learners import learners
from models.registry import require_within

NUMBERS = 1 << 20  # of relations that are held at a time: 4 MB, which stay in the cache


@learners.register
@dataclass(frozen=True, kw_only=True)
class Relation:
    """Let a small network say how much a query has to do with the prototype of a label.

    Sung et al., 2018, equation 1. https://arxiv.org/abs/1711.06025 It sees vectors where theirs
    sees maps, and lowers the cross entropy. What it says, zero at the start, is added to what
    prototypes say. Its first layer, W [c; q], is W1 c + W2 q: queries come in by one product.
    """

    fewest_labels: ClassVar[int] = 20
    unsuited: ClassVar[str] = "hundreds of labels, to each of which it relates each query"

    width: int = 64  # of both hidden layers

    def __post_init__(self) -> None:
        require_within(self, "width", 1, 4096)

    def network(self, dim: int) -> HeadNetwork:
        return _Network(dim, self.width)


class _Network(PrototypeNetwork):
    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.of_prototype = nn.Linear(dim, width)
        self.of_query = nn.Linear(dim, width, bias=False)
        for layer in (self.of_prototype, self.of_query):
            nn.init.normal_(layer.weight)  # of vectors of unit length
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.out.weight)

    def condense(
        self, support: Float[Tensor, "M D"], targets: Int[Tensor, " M"], classes: int
    ) -> Condensed:
        prototypes = class_prototypes(support, targets, classes)
        scale = self.log_scale.exp()
        directions = torch.cat([2 * scale * prototypes, self.of_query.weight])
        offsets = -scale * prototypes.square().sum(dim=1)
        return Condensed(directions, (offsets, self.of_prototype(prototypes)))

    def log_odds(
        self, condensed: Condensed, projected: Float[Tensor, "Q P"]
    ) -> Float[Tensor, "Q C"]:
        """-s |q - p|^2, but for s |q|^2, and the relation of q and p."""
        offsets, prototypes = condensed.rest
        blocks = torch.split(projected, max(1, NUMBERS // prototypes.numel()))
        relations = [self._relation(prototypes, block[:, None, len(offsets) :]) for block in blocks]
        return projected[:, : len(offsets)] + offsets + torch.cat(relations)

    def relate(
        self, prototypes: Float[Tensor, "K D"], queries: Float[Tensor, "K D"]
    ) -> Float[Tensor, " K"]:
        closeness = (prototypes * (2 * queries - prototypes)).sum(dim=1)
        relations = self._relation(self.of_prototype(prototypes), self.of_query(queries))
        log_odds: Tensor = self.log_scale.exp() * closeness + relations
        return log_odds

    def _relation(
        self, prototypes: Float[Tensor, "*#R P"], queries: Float[Tensor, "*#R P"]
    ) -> Float[Tensor, "*R"]:
        """Of what the first layer makes of both."""
        relation: Tensor = self.out(self.hidden((prototypes + queries).relu()).relu()).squeeze(-1)
        return relation
