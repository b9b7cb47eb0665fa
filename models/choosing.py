"""What may surround a strategy: no near-duplicates, and labels that are evenly spread."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.acquisition import AcquisitionStrategy, Pool, Ranking

ROUNDS = 8  # in which a strategy is asked again for what near-duplicates left open
MORE = 4  # images ranked for each that is picked evenly


def choose(
    strategy: AcquisitionStrategy,
    pool: Pool,
    budget: int,
    *,
    max_cosine: float | None = None,
    balanced: bool = False,
) -> Ranking:
    """Rank by a strategy, within bounds. Images that it drew at random are always kept.

    Args:
        max_cosine: leave out images closer than this to one that is labeled, handed out or picked.
            The strategy is asked at most eight times, so that fewer than `budget` may be left.
        balanced: prefer the likeliest labels with fewest images so far.
    """
    wanted = budget * MORE if balanced else budget
    ranking = (
        strategy.rank(pool, wanted)
        if max_cosine is None
        else _distinct(strategy, pool, wanted, max_cosine)
    )
    return _balance(pool, ranking, budget) if balanced else ranking


def _distinct(strategy: AcquisitionStrategy, pool: Pool, budget: int, max_cosine: float) -> Ranking:
    left = torch.arange(len(pool))
    parts: list[Ranking] = []
    found = 0
    picked = pool.rows[:0]
    for _ in range(ROUNDS):
        if found >= budget or not len(left):
            break
        now = replace(pool.part(left), taken=torch.cat([pool.taken, picked]))
        ranking = strategy.rank(now, budget - found)
        kept = _apart(now, ranking, max_cosine)
        part = _some(ranking, kept)
        parts.append(part._replace(indices=left[part.indices]))
        found += len(part.indices)
        picked = torch.cat([picked, now.rows[part.indices]])
        left = left[_far(now, ranking, part, max_cosine)]
    return _concatenated(parts)


def _apart(pool: Pool, ranking: Ranking, max_cosine: float) -> Int[Tensor, " K"]:
    """Which of the ranking are far from all that is covered, and from those before them."""
    vectors = pool.vectors(pool.rows[ranking.indices])
    near = torch.zeros(len(vectors), dtype=torch.bool)
    for block in torch.split(pool.covered, 4096):
        near |= (vectors @ pool.vectors(block).T > max_cosine).any(dim=1)
    alike = vectors @ vectors.T > max_cosine
    kept: list[int] = []
    for place in range(len(vectors)):
        drawn = ranking.propensities is not None and bool(ranking.propensities[place] > 0)
        if drawn or not (bool(near[place]) or bool(alike[place, kept].any())):
            kept.append(place)
    return torch.tensor(kept, dtype=torch.long)


def _far(pool: Pool, ranking: Ranking, part: Ranking, max_cosine: float) -> Int[Tensor, " K"]:
    """Positions that may still be picked: not those ranked, nor any close to one that was kept."""
    free = torch.ones(len(pool), dtype=torch.bool)
    free[ranking.indices] = False
    if len(part.indices):
        kept = pool.vectors(pool.rows[part.indices])
        nearest = [
            (pool.vectors(block) @ kept.T).amax(dim=1) for block in torch.split(pool.rows, 4096)
        ]
        free &= torch.cat(nearest) <= max_cosine
    return free.nonzero().squeeze(1)


def _balance(pool: Pool, ranking: Ranking, budget: int) -> Ranking:
    """The first `budget` when each comes from the label that has fewest images by then."""
    if pool.probabilities is None or not len(ranking.indices):
        return _some(ranking, torch.arange(min(budget, len(ranking.indices))))
    likeliest = pool.part(ranking.indices).score(lambda p: p.argmax(dim=1).float()).long()
    classes = max(int(likeliest.max()), int(pool.targets.max()) if len(pool.targets) else 0) + 1
    images = torch.bincount(pool.targets, minlength=classes).tolist()
    waiting: list[list[int]] = [[] for _ in range(classes)]
    for place, label in enumerate(likeliest.tolist()):
        waiting[label].append(place)
    drawn = _propensities(ranking).nonzero().flatten().tolist()[:budget]
    for place in drawn:
        label = int(likeliest[place])
        waiting[label].remove(place)
        images[label] += 1
    chosen: list[int] = []
    while len(chosen) + len(drawn) < budget and any(waiting):
        label = min((c for c in range(classes) if waiting[c]), key=lambda c: (images[c], c))
        chosen.append(waiting[label].pop(0))
        images[label] += 1
    # An image drawn at random keeps the place it had in the batch.
    for place in drawn:
        chosen.insert(min(place, len(chosen)), place)
    return _some(ranking, torch.tensor(chosen, dtype=torch.long))


def _propensities(ranking: Ranking) -> Float[Tensor, " K"]:
    if ranking.propensities is None:
        return torch.zeros(len(ranking.indices))
    return ranking.propensities


def _some(ranking: Ranking, places: Int[Tensor, " K"]) -> Ranking:
    return Ranking(ranking.indices[places], ranking.scores[places], _propensities(ranking)[places])


def _concatenated(parts: list[Ranking]) -> Ranking:
    if not parts:
        return Ranking(torch.empty(0, dtype=torch.long), torch.empty(0))
    indices, scores, propensities = zip(*parts, strict=True)
    return Ranking(
        torch.cat(indices), torch.cat(scores), torch.cat([p for p in propensities if p is not None])
    )
