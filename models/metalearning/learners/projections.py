"""Prototypes and queries, each by a map of its own."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from models.heads.network import (
    Condensed,
    HeadNetwork,
    LinearNetwork,
    LowRankMap,
    PrototypeNetwork,
    class_prototypes,
)
from models.metalearning.learners import learners
from models.registry import require_within


@learners.register
@dataclass(frozen=True, kw_only=True)
class Projections:
    """Map prototypes and queries by two linear maps before they are compared.

    What is labeled and what is asked may be embedded differently, as f and g of Vinyals et al.
    (2016, section 2.1.2, https://arxiv.org/abs/1606.04080), for prototypes of Snell et al. (2017,
    https://arxiv.org/abs/1703.05175). Both maps are the identity and a part of low rank, which is
    zero at the start. Distances after them are products with directions, as those before are.
    """

    fewest_labels: ClassVar[int] = 20
    unsuited: ClassVar[str] = (
        "labels unlike the earlier ones, which may differ in what it learned to pass over"
    )

    width: int = 64  # rank of what is added to the identity

    def __post_init__(self) -> None:
        require_within(self, "width", 1, 4096)

    def network(self, dim: int) -> HeadNetwork:
        return _Network(dim, self.width)


class _Network(LinearNetwork, PrototypeNetwork):
    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.of_prototype, self.of_query = LowRankMap(dim, width), LowRankMap(dim, width)

    def condense(
        self, support: Float[Tensor, "M D"], targets: Int[Tensor, " M"], classes: int
    ) -> Condensed:
        """-s |B q - A p|^2, but for s |B q|^2, which all classes share."""
        mapped = self.of_prototype(class_prototypes(support, targets, classes))
        scale = self.log_scale.exp()
        offsets = -scale * mapped.square().sum(dim=1)
        return Condensed(2 * scale * self.of_query.transposed(mapped), (offsets,))

    def relate(
        self, prototypes: Float[Tensor, "K D"], queries: Float[Tensor, "K D"]
    ) -> Float[Tensor, " K"]:
        mapped = self.of_prototype(prototypes)
        distances = mapped * (mapped - 2 * self.of_query(queries))  # less |B q|^2
        log_odds: Tensor = -self.log_scale.exp() * distances.sum(dim=1)
        return log_odds
