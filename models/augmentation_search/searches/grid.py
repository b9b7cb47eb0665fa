"""RandAugment's two numbers, by trying all."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from models.augmentation.kinds.randaugment import RandAugment
from models.augmentation_search import PolicyTrial, SearchResult, best
from models.augmentation_search.candidates import PolicyCandidate
from models.augmentation_search.proxy import Proxy
from models.augmentation_search.searches import searches

MOST = 100  # trials


@searches.register
@dataclass(frozen=True, kw_only=True)
class Grid:
    """Try RandAugment with each number of operations and each strength (Cubuk et al., 2020).

    That these two numbers are all one needs to search for is the point of the paper.

    https://arxiv.org/abs/1909.13719
    """

    n: tuple[int, ...] = (1, 2, 3)  # operations, one after the other
    m: tuple[float, ...] = (3.0, 6.0, 9.0)  # strengths

    def __post_init__(self) -> None:
        if not 1 <= len(self.n) * len(self.m) <= MOST:
            raise ValueError(f"n and m must make 1 to {MOST} pairs, got {len(self._pairs())}")
        self._pairs()

    def search(self, proxy: Proxy) -> Iterator[PolicyTrial]:
        pairs = self._pairs()
        for number, augmentation in enumerate(pairs, start=1):
            candidate = PolicyCandidate((augmentation,))
            yield PolicyTrial(number, len(pairs), candidate, proxy.judge(candidate))

    def choose(self, proxy: Proxy, trials: Sequence[PolicyTrial]) -> SearchResult:
        return best(proxy, trials)

    def _pairs(self) -> list[RandAugment]:
        return [RandAugment(n=n, m=m) for n, m in itertools.product(self.n, self.m)]
