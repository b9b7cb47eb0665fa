"""What may surround a strategy: no near-duplicates, and labels that are evenly spread."""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from models.acquisition import AcquisitionStrategy, Pool, Ranking

ROUNDS = 30  # in which a strategy is asked again for what near-duplicates left open


MORE = 4  # images ranked for each that is picked evenly


BLOCK_ROWS = 4096


def choose(
    strategy: AcquisitionStrategy,
    pool: Pool,
    budget: int,
    *,
    max_cosine: float | None = None,
    balanced: bool = False,
) -> Ranking:
    """Rank by a strategy, within bounds. Within them nothing is drawn from the whole pool.

    Args:
        max_cosine: leave out images closer than this to one that is labeled, handed out or picked,
            by embeddings as they are. The strategy is asked at most 30 times, so that fewer than
            `budget` may be left.
        balanced: prefer the likeliest labels with fewest images so far, among the first
            `4 x budget`.
    """
    if max_cosine is None and not balanced:
        return strategy.rank(pool, budget)
    wanted = budget * MORE if balanced else budget
    ranking = (
        strategy.rank(pool, wanted)
        if max_cosine is None
        else _distinct(strategy, pool, wanted, max_cosine)
    )
    places = _evenly(pool, ranking, budget) if balanced else torch.arange(len(ranking.indices))
    return Ranking(ranking.indices[places], ranking.scores[places])


def _distinct(strategy: AcquisitionStrategy, pool: Pool, budget: int, max_cosine: float) -> Ranking:
    left = torch.arange(len(pool))
    picks, scores = left[:0], torch.empty(0)
    for _ in range(ROUNDS):
        if len(picks) >= budget or not len(left):
            break
        now = replace(pool.part(left), taken=torch.cat([pool.taken, pool.rows[picks]]))
        ranking = strategy.rank(now, budget - len(picks))
        plain = replace(now, mean=None)
        kept = _apart(plain, ranking.indices, max_cosine)
        chosen = ranking.indices[kept]
        picks = torch.cat([picks, left[chosen]])
        scores = torch.cat([scores, ranking.scores[kept]])
        free = _far(plain, chosen, max_cosine)
        free[ranking.indices] = False
        left = left[free]
    return Ranking(picks, scores)


def _apart(pool: Pool, positions: Int[Tensor, " K"], max_cosine: float) -> Int[Tensor, " V"]:
    """Which are far from all that is covered, and from those before them."""
    vectors = pool.vectors(pool.rows[positions])
    near = torch.zeros(len(vectors), dtype=torch.bool)
    for block in torch.split(pool.covered, BLOCK_ROWS):
        near |= (vectors @ pool.vectors(block).T > max_cosine).any(dim=1)
    alike = vectors @ vectors.T > max_cosine
    kept: list[int] = []
    for place in (~near).nonzero().flatten().tolist():
        if not bool(alike[place, kept].any()):
            kept.append(place)
    return torch.tensor(kept, dtype=torch.long)


def _far(pool: Pool, chosen: Int[Tensor, " K"], max_cosine: float) -> Tensor:
    """Which images of the pool are close to none of the chosen."""
    if not len(chosen):
        return torch.ones(len(pool), dtype=torch.bool)
    vectors = pool.vectors(pool.rows[chosen])
    blocks = torch.split(pool.rows, BLOCK_ROWS)
    return torch.cat([(pool.vectors(b) @ vectors.T).amax(dim=1) for b in blocks]) <= max_cosine


def _evenly(pool: Pool, ranking: Ranking, budget: int) -> Int[Tensor, " V"]:
    """Places in the ranking, each of the label that has fewest images by then."""
    if pool.probabilities is None or not len(ranking.indices):
        return torch.arange(min(budget, len(ranking.indices)))
    likeliest = pool.part(ranking.indices).score(lambda p: p.argmax(dim=1).float()).long()
    classes = max(int(likeliest.max()), int(pool.targets.max()) if len(pool.targets) else 0) + 1
    images = torch.bincount(pool.targets, minlength=classes).tolist()
    waiting = [(likeliest == label).nonzero().flatten().tolist() for label in range(classes)]
    chosen: list[int] = []
    while len(chosen) < budget and any(waiting):
        label = min((c for c in range(classes) if waiting[c]), key=lambda c: images[c])
        chosen.append(waiting[label].pop(0))
        images[label] += 1
    return torch.tensor(chosen, dtype=torch.long)
