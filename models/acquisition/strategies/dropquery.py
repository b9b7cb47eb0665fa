"""DropQuery: label where dropout turns the prediction."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.acquisition import Pool, Ranking
from models.acquisition.strategies import strategies
from models.embeddings.clusters import fit
from models.registry import require_within

BLOCK_ROWS = 4096


@strategies.register
@dataclass(frozen=True, kw_only=True)
class DropQuery:
    """Pick the centres of clusters of images whose label turns when features drop out.

    Gupte et al., 2024, section 4. https://arxiv.org/abs/2401.14555

    An image is a candidate when at least half of the `passes` predictions under dropout differ from
    the one without. Where these are too few, the bound falls until there are enough to choose from,
    as in the authors' code. Candidates are clustered by k-means into as many clusters as images to
    pick, and the image closest to each centre is picked.

    Exact up to `candidates` images in the pool, beyond which a uniform sample may be picked, and up
    to `sample` whose label turns, beyond which k-means is fitted to a uniform sample of them.
    """

    needs_classes: ClassVar[bool] = True

    passes: int = 3
    rate: float = 0.75  # of features that drop out
    sample: int = 20_000
    candidates: int = 200_000

    def __post_init__(self) -> None:
        require_within(self, "passes", 1, 50)
        require_within(self, "rate", 0.01, 0.99)
        require_within(self, "sample", 1, 100_000)
        require_within(self, "candidates", 1, 1_000_000)

    def rank(self, pool: Pool, budget: int) -> Ranking:
        candidates = pool.sample(max(self.candidates, budget))
        picks, scores, _ = self._pick(pool.part(candidates), budget)
        return Ranking(candidates[picks], scores)

    def _pick(self, pool: Pool, budget: int) -> Ranking:
        turned = self._turned(pool)
        budget = min(budget, len(pool))
        if not budget:
            return Ranking(torch.empty(0, dtype=torch.long), torch.empty(0))
        bound = self.passes / 2
        while int((turned >= bound).sum()) < min(2 * budget, len(pool)) and bound > 0:
            bound -= 0.5
        candidates = (turned >= bound).nonzero().squeeze(1)
        return _centres(pool, candidates, budget, self.sample)

    def _turned(self, pool: Pool) -> Float[Tensor, " N"]:
        """In how many passes the label of each image turns."""
        classify, generator = pool.classify(), pool.generator()
        keep_rate = 1 - self.rate

        def turns(embeddings: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
            label = classify(embeddings).argmax(dim=1)
            count = torch.zeros(len(embeddings))
            for _ in range(self.passes):
                mask = torch.rand(embeddings.shape, generator=generator) < keep_rate
                count += (classify(embeddings * mask / keep_rate).argmax(dim=1) != label).float()
            return count

        return pool.map(turns)


def _centres(pool: Pool, candidates: Int[Tensor, " K"], budget: int, sample: int) -> Ranking:
    """The candidate closest to the centre of each cluster, large clusters first."""
    generator = pool.generator()
    subset = candidates[torch.randperm(len(candidates), generator=generator)[:sample].sort().values]
    clusters = fit(pool.vectors(pool.rows[subset]), budget, generator)
    nearest = torch.full((len(clusters.centres),), torch.inf)
    picks = torch.zeros(len(clusters.centres), dtype=torch.long)
    for block in torch.split(candidates, BLOCK_ROWS):
        distances = torch.cdist(
            pool.vectors(pool.rows[block]),
            clusters.centres,
            compute_mode="donot_use_mm_for_euclid_dist"
            if len(block) < 64
            else "use_mm_for_euclid_dist",
        )
        least = distances.min(dim=0)
        closer = least.values < nearest - 1e-4
        picks[closer], nearest[closer] = block[least.indices[closer]], least.values[closer]
    order = torch.bincount(clusters.groups, minlength=len(picks)).argsort(
        descending=True, stable=True
    )
    return _distinct(picks[order].tolist(), (1 - nearest[order] / 2).tolist(), candidates, budget)


def _distinct(
    picks: list[int], scores: list[float], candidates: Int[Tensor, " K"], budget: int
) -> Ranking:
    """Each image once; where clusters share one, other candidates follow in pool order."""
    score_of = dict(reversed(list(zip(picks, scores, strict=True))))
    ordered = list(dict.fromkeys(picks))
    for candidate in candidates.tolist():
        if len(ordered) >= budget:
            break
        if candidate not in score_of:
            score_of[candidate] = 0.0
            ordered.append(candidate)
    ordered = ordered[:budget]
    return Ranking(torch.tensor(ordered), torch.tensor([score_of[pick] for pick in ordered]))
