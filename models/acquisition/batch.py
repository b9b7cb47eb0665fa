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
    count = budget * MORE if balanced else budget
    ranking = (
        strategy.rank(pool, count)
        if max_cosine is None
        else _distinct(strategy, pool, count, max_cosine)
    )
    places = _evenly(pool, ranking, budget) if balanced else torch.arange(len(ranking.indices))
    return Ranking(ranking.indices[places], ranking.scores[places])


def _distinct(strategy: AcquisitionStrategy, pool: Pool, budget: int, max_cosine: float) -> Ranking:
    remaining = torch.arange(len(pool))
    picks, scores = remaining[:0], torch.empty(0)
    for _ in range(ROUNDS):
        if len(picks) >= budget or not len(remaining):
            break
        narrowed = replace(
            pool.part(remaining), pending=torch.cat([pool.pending, pool.rows[picks]])
        )
        ranking = strategy.rank(narrowed, budget - len(picks))
        plain = replace(narrowed, mean=None)
        distinct = _apart(plain, ranking.indices, max_cosine)
        selected = ranking.indices[distinct]
        picks = torch.cat([picks, remaining[selected]])
        scores = torch.cat([scores, ranking.scores[distinct]])
        free = _far_from(plain, selected, max_cosine)
        free[ranking.indices] = False
        remaining = remaining[free]
    return Ranking(picks, scores)


def _apart(pool: Pool, positions: Int[Tensor, " K"], max_cosine: float) -> Int[Tensor, " V"]:
    """Which are far from all that is covered, and from those before them."""
    vectors = pool.vectors(pool.rows[positions])
    is_covered = torch.zeros(len(vectors), dtype=torch.bool)
    for block in torch.split(pool.covered, BLOCK_ROWS):
        is_covered |= (vectors @ pool.vectors(block).T > max_cosine).any(dim=1)
    alike = vectors @ vectors.T > max_cosine
    selected: list[int] = []
    for place in (~is_covered).nonzero().flatten().tolist():
        if not bool(alike[place, selected].any()):
            selected.append(place)
    return torch.tensor(selected, dtype=torch.long)


def _far_from(pool: Pool, picks: Int[Tensor, " K"], max_cosine: float) -> Tensor:
    """Which images of the pool are close to none of the chosen."""
    if not len(picks):
        return torch.ones(len(pool), dtype=torch.bool)
    vectors = pool.vectors(pool.rows[picks])
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
    selected: list[int] = []
    while len(selected) < budget and any(waiting):
        label = min((c for c in range(classes) if waiting[c]), key=lambda c: images[c])
        selected.append(waiting[label].pop(0))
        images[label] += 1
    return torch.tensor(selected, dtype=torch.long)
