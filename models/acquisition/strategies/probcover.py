"""ProbCover: cover the pool with balls."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from models.acquisition import Pool, Ranking
from models.acquisition.coverage import CANDIDATES, LANDMARKS, Herding, ball, greedy
from models.acquisition.strategies import strategies
from models.embeddings.clusters import fit
from models.registry import require_within

RADII = [0.1 * n for n in range(1, 20)]


@strategies.register
@dataclass(frozen=True, kw_only=True)
class ProbCover:
    """Pick the images whose balls hold most images that no ball holds yet (Yehuda et al., 2022).

    https://arxiv.org/abs/2205.11320

    Where no radius is given, it is the largest of 0.1, 0.2 ... 1.9 with which at least `purity` of
    all balls hold images of one cluster only, of as many clusters by k-means as there are classes
    (section 4.2 of the paper).

    Exact up to `landmarks` images in the pool. Beyond, those in a ball are counted in a uniform
    sample of that size. Of more than `candidates` images a uniform sample may be picked.
    """

    needs_classes: ClassVar[bool] = False

    radius: float | None = None  # of a ball, between unit vectors
    purity: float = 0.95
    clusters: int = 0  # 0: as many as there are classes, at least 2
    landmarks: int = LANDMARKS
    candidates: int = CANDIDATES

    def __post_init__(self) -> None:
        require_within(self, "radius", 0, 2, exclusive=True)
        require_within(self, "purity", 0, 1, exclusive=True)
        require_within(self, "clusters", 0, 1000)
        require_within(self, "landmarks", 1, 20_000)
        require_within(self, "candidates", 1, 1_000_000)

    def rank(self, pool: Pool, budget: int) -> Ranking:
        landmarks = pool.sample(self.landmarks)
        radius = self.radius or self._pure_radius(pool.part(landmarks))
        candidates = pool.sample(max(self.candidates, budget))
        return greedy(Herding(pool, landmarks, ball(radius)), candidates, budget)

    def _pure_radius(self, pool: Pool) -> float:
        """The largest radius whose balls are pure enough."""
        classes = int((torch.bincount(pool.targets) > 0).sum())
        clusters = self.clusters or min(max(2, classes), 1000)
        points = pool.vectors(pool.rows)
        if len(points) <= clusters:
            return RADII[0]
        groups = fit(points, clusters, pool.generator()).groups
        # A ball is pure until it reaches the nearest image of another cluster.
        reach = torch.cat(
            [
                (block @ points.T).masked_fill(block_groups[:, None] == groups, -1).amax(dim=1)
                for block, block_groups in zip(
                    torch.split(points, 1024), torch.split(groups, 1024), strict=True
                )
            ]
        )
        distances = (2 - 2 * reach).clamp_min(0).sqrt()
        pure = [r for r in RADII if float((distances > r).float().mean()) >= self.purity]
        return pure[-1] if pure else RADII[0]
