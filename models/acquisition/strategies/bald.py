"""BALD: label what a committee disagrees on."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from models.acquisition import NoClasses, Pool, Ranking, top
from models.acquisition.strategies import strategies
from models.registry import require_within


@strategies.register
@dataclass(frozen=True, kw_only=True)
class Bald:
    """Prefer images on which members are each sure, but not of the same class.

    The mutual information between label and member, in nats (Houlsby et al., 2011, equation 2).
    https://arxiv.org/abs/1112.5745

    Members are class centroids of the labeled images, drawn again with replacement within
    each class (Breiman, 1996), so that one image per class leaves nothing to disagree on.

    Exact up to `candidates` images in the pool; of a larger one a uniform sample of that size may
    be picked, since every member has to classify it.
    """

    needs_classes: ClassVar[bool] = True

    members: int = 5
    temperature: float = 0.03  # probabilities are the softmax of cosine / temperature
    candidates: int = 200_000

    def __post_init__(self) -> None:
        require_within(self, "members", 2, 50)
        require_within(self, "temperature", 0.001, 100)
        require_within(self, "candidates", 1, 1_000_000)

    def rank(self, pool: Pool, budget: int) -> Ranking:
        pool.classify()  # says that classes are missing
        if not len(pool.labeled):
            raise NoClasses("this strategy needs at least two classes with labeled images")
        centroids = self._committee(pool)

        def disagreement(embeddings: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
            queries = pool.normalize(embeddings)
            mean: Tensor | None = None
            within_members = torch.zeros(len(queries))
            for member in centroids:
                probabilities = (queries @ member.T / self.temperature).softmax(dim=1)
                mean = probabilities if mean is None else mean + probabilities
                within_members += torch.special.entr(probabilities).sum(dim=1)
            assert mean is not None
            total = torch.special.entr(mean / len(centroids)).sum(dim=1)
            information: Tensor = total - within_members / len(centroids)
            return information.clamp_min(0)

        candidates = pool.sample(max(self.candidates, budget))
        picks, scores, _ = top(pool.part(candidates).map(disagreement), budget)
        return Ranking(candidates[picks], scores)

    def _committee(self, pool: Pool) -> list[Float[Tensor, "C D"]]:
        """Centroids of each member."""
        vectors = pool.vectors(pool.labeled)
        shots = torch.bincount(pool.targets)
        order = pool.targets.argsort(stable=True)
        starts = shots.cumsum(dim=0) - shots
        classes = pool.targets[order]  # (U,) sorted
        generator = pool.generator()
        members = []
        for _ in range(self.members):
            draws = (torch.rand(len(classes), generator=generator) * shots[classes]).long()
            resample = order[starts[classes] + draws.minimum(shots[classes] - 1)]
            sums = torch.zeros(len(shots), vectors.shape[1], dtype=torch.float64)
            sums.index_add_(0, classes, vectors[resample].double())
            members.append(F.normalize(sums, dim=1).float())
        return members
