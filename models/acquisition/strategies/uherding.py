"""UHerding: cover what is uncertain."""

from dataclasses import dataclass
from typing import ClassVar

from models.acquisition import Pool, Ranking, closeness, sharpen
from models.acquisition.coverage import CANDIDATES, LANDMARKS, Herding, gaussian, greedy, width
from models.acquisition.strategies import strategies
from models.registry import require_within


@strategies.register
@dataclass(frozen=True, kw_only=True)
class UHerding:
    """Pick the images that cover most of the pool's uncertainty (Bae et al., 2025, equation 4).

    https://arxiv.org/abs/2412.20644

    Uncertainty is 1 - margin of the probabilities at `temperature`: 1 takes them as the head gives
    them, which calibrates by leave-one-out where the paper splits the labels. The kernel narrows
    as labels come: its width is the smallest distance of two labeled images, never below 0.05.

    Exact up to `landmarks` images in the pool. Beyond, the mean is over a uniform sample of that
    size. Of more than `candidates` images a uniform sample may be picked, as in "lazier than lazy"
    greedy (Mirzasoleiman et al., 2015, https://arxiv.org/abs/1409.7938), there anew for each pick.
    """

    needs_classes: ClassVar[bool] = True

    temperature: float = 1.0  # probabilities are raised to 1 / temperature
    sigma: float | None = None  # width of the kernel; by the labeled images where it is not given
    landmarks: int = LANDMARKS
    candidates: int = CANDIDATES

    def __post_init__(self) -> None:
        require_within(self, "temperature", 0.01, 100)
        require_within(self, "sigma", 0.01, 100)
        require_within(self, "landmarks", 1, 20_000)
        require_within(self, "candidates", 1, 1_000_000)

    def rank(self, pool: Pool, budget: int) -> Ranking:
        landmarks = pool.sample(self.landmarks)
        weights = pool.part(landmarks).score(lambda p: closeness(sharpen(p, self.temperature)))
        kernel = gaussian(self.sigma or width(pool))
        candidates = pool.sample(max(self.candidates, budget))
        return greedy(Herding(pool, landmarks, kernel, weights), candidates, budget)
