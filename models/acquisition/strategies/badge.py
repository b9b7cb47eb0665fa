"""BADGE: a batch of gradients that are large and differ."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from models.acquisition import Pool, Ranking
from models.acquisition.gradients import gradients, kmeans_plus_plus_of_gradients, lengths
from models.acquisition.strategies import strategies
from models.registry import require_within


@strategies.register
@dataclass(frozen=True, kw_only=True)
class Badge:
    """Pick images by k-means++ on the gradients of their likeliest label (Ash et al., 2020).

    https://arxiv.org/abs/1906.03671

    The gradient of the last layer is (p - e) x^T with p the probabilities, e the likeliest label as
    one-hot and x the embedding (section 3). It is never built: inner products of two gradients are
    those of p - e times those of x. The first pick has the longest gradient; each other one is
    drawn in proportion to its squared distance to the nearest pick.

    Exact up to `candidates` images in the pool. Of a larger one, the image with the longest
    gradient and a uniform sample of that size may be picked.
    """

    needs_classes: ClassVar[bool] = True

    candidates: int = 100_000

    def __post_init__(self) -> None:
        require_within(self, "candidates", 1, 1_000_000)

    def rank(self, pool: Pool, budget: int) -> Ranking:
        pool.classify()  # says that classes are missing
        positions = pool.sample(max(self.candidates, budget))
        if len(positions) < len(pool):
            longest = lengths(pool).argmax()
            positions = torch.cat([positions[positions != longest], longest[None]]).sort().values
        picks, scores = kmeans_plus_plus_of_gradients(
            gradients(pool.part(positions)), budget, pool.generator()
        )
        return Ranking(positions[picks], scores)
