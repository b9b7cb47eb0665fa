"""A head whose centroids are moved to where the rest of their class is said to lie."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.generation import Sizes, Target, direction
from models.generation.generators import generators
from models.heads import (
    FittedHead,
    Support,
    best_by_leave_one_out,
    center_and_normalize,
    products,
)
from models.heads.kinds.blend import Blend, FittedBlend
from models.heads.kinds.cosine import EXPECTED_CENTERED
from models.heads.network import HeadModule, ModuleHead
from models.registry import require_within

SHOTS = (1, 2, 5, 20)  # for which kinds and weights are chosen; between two the next one counts
NONE = "none"  # centroids stay where they are


def place(shots: int) -> int:
    """Which of `SHOTS` counts for so many: the least that is no less, or the last."""
    return min(bisect_left(SHOTS, shots), len(SHOTS) - 1)


@dataclass(frozen=True, kw_only=True)
class MovedCentroids:
    """How far centroids are moved, and by what, for each number of shots."""

    groups: Sequence[str]  # by the number of shots: a generator, or none
    weights: Sequence[float]
    options: dict[str, dict[str, Any]] = field(default_factory=dict)  # of each generator
    group_count: int = 0  # that they know
    point_count: int = 0  # images of these

    def __post_init__(self) -> None:
        if not len(self.groups) == len(self.weights) == len(SHOTS):
            raise ValueError(f"groups and weights are needed for each of {SHOTS} shots")
        if unknown := set(self.groups) - {NONE, *generators}:
            raise ValueError(f"there are no groups {sorted(unknown)[0]!r}")
        if not all(0 <= weight <= 1 for weight in self.weights):
            raise ValueError(f"weights must be from 0 to 1, got {list(self.weights)}")

    def network(self, dim: int) -> "Mover":
        """What moves embeddings of `dim` numbers, knowing nothing yet."""
        sizes = Sizes(dim, self.group_count, self.point_count)
        names = sorted(set(self.groups) - {NONE})
        targets = {
            name: generators[name](**self.options.get(name, {})).target(sizes) for name in names
        }
        return Mover(self.groups, self.weights, targets)


class Mover(HeadModule):
    """Moves centroids, each by what suits its number of shots.

    Args:
        targets: by the names of generators.
    """

    def __init__(
        self, groups: Sequence[str], weights: Sequence[float], targets: dict[str, Target]
    ) -> None:
        super().__init__()
        self._groups = groups
        self._weights = weights
        self.targets = nn.ModuleDict(targets)

    def head(self) -> "MovedHead":
        return MovedHead(network=self)

    @torch.no_grad()
    def moves(self, means: Float[Tensor, "C D"], shots: Int[Tensor, " C"]) -> Float[Tensor, "C D"]:
        """What is to be added to directions of means, that they get to those of moved centroids.

        (1 - w) m / |m| + w t / |t|, again of unit length, with t what is generated and w the weight
        for so many shots.
        """
        moves = torch.zeros_like(means)
        places = torch.tensor([place(n) for n in shots.tolist()], dtype=torch.long)
        for number in sorted(set(places.tolist())):
            name, weight = self._groups[number], self._weights[number]
            if name == NONE or not weight:
                continue
            rows = (places == number).nonzero().flatten()
            start = direction(means[rows])
            generated = direction(self.targets[name](means[rows].float(), shots[rows]))
            moves[rows] = direction((1 - weight) * start + weight * generated) - start
        return moves


@dataclass(frozen=True, kw_only=True)
class MovedHead(ModuleHead):
    """`blend`, and what its centroids gain by moving: the cosine to the moved one, less the other.

    Where no centroid moves, it is `blend`.
    """

    network: Mover
    blend: Blend = field(default_factory=lambda: Blend(centered=False))
    sharpness: float = EXPECTED_CENTERED  # divides the cosines
    temperature: float | None = None  # divides the log odds; None: fitted

    def __post_init__(self) -> None:
        require_within(self, "sharpness", 1e-3, 100)
        require_within(self, "temperature", 1e-3, 1e3)

    def fit_support(self, support: Support) -> "FittedMoved":
        """Fit `blend`, and move the centroids."""
        plain = replace(support, embeddings=support.normalized, mean=None)
        blend = self.blend.fit_support(plain)
        moves = self.network.moves(support.means.float(), support.shots)
        fitted = FittedMoved(
            options=replace(self, blend=cast(Blend, blend.options)),
            temperature=1.0,
            mean=support.mean,
            centroids=direction(support.centroids + moves),
            blend=blend,
            mover=self.network,
            moves=moves / self.sharpness,
            sharpness=self.sharpness,
            sums=support.means * support.shots[:, None],
            shots=support.shots,
        )
        return best_by_leave_one_out([fitted], support, expected=1.0)


@dataclass(frozen=True, kw_only=True)
class FittedMoved(FittedHead):
    """Both parts, which are linear together."""

    blend: FittedBlend
    mover: Mover
    moves: Float[Tensor, "C D"]  # over the sharpness
    sharpness: float
    sums: Float[Tensor, "C D"]
    shots: Int[Tensor, " C"]

    def scores(self, queries: Float[Tensor, "Q D"]) -> Float[Tensor, "Q C"]:
        """Log odds of `blend`, and what moving adds."""
        directions = self.blend.directions / self.blend.temperature + self.moves
        sums = products(queries, directions, self.mean)
        return sums + (self.blend.offset / self.blend.temperature).to(sums.dtype)

    def leave_one_out_scores(
        self, embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
    ) -> Float[Tensor, "M C"]:
        """Without an image its class has another mean, which moves to somewhere else."""
        normalized = center_and_normalize(embeddings, self.mean).double()
        log_odds = self.blend.leave_one_out_scores(normalized, targets) / self.blend.temperature
        moved = normalized @ self.moves.double().T
        shots = self.shots[targets] - 1
        means = (self.sums[targets] - normalized) / shots.clamp_min(1)[:, None]
        moves = torch.zeros_like(means)
        rows = (shots > 0).nonzero().flatten()
        moves[rows] = self.mover.moves(means[rows].float(), shots[rows]).double() / self.sharpness
        own = (normalized * moves).sum(dim=1)
        return log_odds + moved.scatter(1, targets[:, None], own[:, None])
