"""MaxHerding: cover the pool with few images."""

from dataclasses import dataclass
from typing import ClassVar

from models.acquisition import Pool, Ranking
from models.acquisition.coverage import CANDIDATES, LANDMARKS, Herding, gaussian, greedy
from models.acquisition.strategies import strategies
from models.registry import require_within


@strategies.register
@dataclass(frozen=True, kw_only=True)
class MaxHerding:
    """Pick the images that raise the pool's mean similarity to its nearest pick most.

    Greedy generalized coverage with a Gaussian kernel (Bae et al., 2024, equation 3 and
    algorithm 1). https://arxiv.org/abs/2407.12212

    Exact up to `landmarks` images in the pool. Beyond, the mean is over a uniform sample of that
    size. Of more than `candidates` images a uniform sample may be picked, as in "lazier than lazy"
    greedy (Mirzasoleiman et al., 2015, https://arxiv.org/abs/1409.7938), there anew for each pick.
    """

    needs_classes: ClassVar[bool] = False

    sigma: float = 1.0  # width of the kernel exp(-||x - y||^2 / sigma^2)
    landmarks: int = LANDMARKS
    candidates: int = CANDIDATES

    def __post_init__(self) -> None:
        require_within(self, "sigma", 0.01, 100)
        require_within(self, "landmarks", 1, 20_000)
        require_within(self, "candidates", 1, 1_000_000)

    def rank(self, pool: Pool, budget: int) -> Ranking:
        herding = Herding(pool, pool.sample(self.landmarks), gaussian(self.sigma))
        return greedy(herding, pool.sample(max(self.candidates, budget)), budget)
