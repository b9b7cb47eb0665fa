"""Unknown first: label what is like nothing that has a label."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from models.acquisition import Pool, Ranking, top
from models.acquisition.coverage import LANDMARKS, representatives
from models.acquisition.strategies import strategies
from models.registry import require_within


@strategies.register
@dataclass(frozen=True, kw_only=True)
class UnknownFirst:
    """Prefer images far from their nearest labeled ones (Sun et al., 2022, section 3).

    https://arxiv.org/abs/2204.06507

    The score is the distance to the `neighbours`-th closest labeled image; without a label, to the
    mean of the pool. Exact up to `landmarks` labeled images; of more, that many stand for them, the
    same share of each class.
    """

    needs_classes: ClassVar[bool] = False

    neighbours: int = 1
    landmarks: int = LANDMARKS

    def __post_init__(self) -> None:
        require_within(self, "neighbours", 1, 1000)
        require_within(self, "landmarks", 1, 100_000)

    def rank(self, pool: Pool, budget: int) -> Ranking:
        if not len(pool):
            return Ranking(torch.empty(0, dtype=torch.long), torch.empty(0))
        if len(pool.labeled):
            references = pool.vectors(representatives(pool, self.landmarks))
        else:
            pool = replace(pool, mean=None)  # nothing is closer to it than anything else
            references = F.normalize(
                pool.vectors(pool.rows[pool.sample(self.landmarks)]).mean(0), dim=0
            )
            references = references[None]
        neighbours = min(self.neighbours, len(references))

        def distance(embeddings: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
            cosines = pool.normalize(embeddings) @ references.T
            nearest = (
                cosines.amax(dim=1)
                if neighbours == 1
                else cosines.topk(neighbours, dim=1).values[:, -1]
            )
            squares = 2 - 2 * nearest
            return squares.where(squares > 1e-6, 0.0).sqrt()  # float32 rounds what is less

        return top(pool.map(distance), budget)
