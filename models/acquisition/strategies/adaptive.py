"""Adaptive: coverage first, then what is uncertain, then what would change the head most."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import functional as F

from models.acquisition import CLOSENESS_SLOPE, Pool, Ranking, closeness, sharpen
from models.acquisition.coverage import LANDMARKS, Herding, gaussian, greedy, width
from models.acquisition.gradients import gradients, kmeans_plus_plus_of_gradients
from models.acquisition.strategies import strategies
from models.registry import require_within

FILTER = 10  # images that margin keeps for each that BADGE picks


PATIENCE = 8  # power of the skill that is BADGE's part: half of a batch at a skill of 0.92


@strategies.register
@dataclass(frozen=True, kw_only=True)
class Adaptive:
    """Cover the pool while classes are unseen; then cover what is uncertain; then take BADGE.

    The first is MaxHerding (Bae et al., 2024, https://arxiv.org/abs/2407.12212), the second
    UHerding (Bae et al., 2025, https://arxiv.org/abs/2412.20644), the third BADGE (Ash et al.,
    2020, https://arxiv.org/abs/1906.03671) on the ten images of the smallest margin for each pick.
    The last two share a batch: BADGE's part is the eighth power of the head's leave-one-out skill,
    since from 2 to 50 labels of each class coverage of what is uncertain chose better.

    Uncertainty is that of p_c times the mean of p_c over the pool: heads take classes for equally
    frequent, and where they are not, an image that looks like a rare one is hardly ever sure to be
    of it. That is the first step of EM for the shares of classes (Saerens et al., 2002,
    https://doi.org/10.1162/089976602753284446). It is weighted by sum_c p_c / sqrt(n_c), with n_c
    labeled images of a class: labels that have few images get more, and those that have many are
    not starved.

    A share of `uniform` is drawn from the whole pool at random, whatever the other images are, and
    told apart by its propensities: labels chosen because they are hard say nothing of how good the
    head is on images as they come. They lie at random places, since not every batch is finished.

    Exact up to `candidates` images in the pool, and coverage up to `landmarks`. Of a larger pool,
    half as many candidates have the smallest margin and the others are a uniform sample; coverage
    is measured on a uniform sample of as many images as landmarks.
    """

    needs_classes: ClassVar[bool] = False

    uniform: float = 0.05  # share of the batch that is drawn at random
    temperature: float = 1.0  # probabilities are raised to 1 / temperature
    candidates: int = 10_000
    landmarks: int = LANDMARKS

    def __post_init__(self) -> None:
        require_within(self, "uniform", 0, 1)
        require_within(self, "temperature", 0.01, 100)
        require_within(self, "candidates", 1, 100_000)
        require_within(self, "landmarks", 1, 20_000)

    def rank(self, pool: Pool, budget: int) -> Ranking:
        budget, generator = min(budget, len(pool)), pool.generator()
        sample, places = self._draw(len(pool), budget, generator)
        is_free = torch.ones(len(pool), dtype=torch.bool)
        is_free[sample] = False
        free = is_free.nonzero().squeeze(1)
        remainder = replace(pool.part(free), pending=torch.cat([pool.pending, pool.rows[sample]]))
        picks, scores, _ = self._choose(remainder, budget - len(sample), generator)
        indices, values = torch.empty(budget, dtype=torch.long), torch.zeros(budget)
        propensities = torch.zeros(budget)
        at_random = torch.zeros(budget, dtype=torch.bool)
        at_random[places] = True
        indices[at_random], indices[~at_random] = sample, free[picks]
        values[~at_random] = scores
        propensities[at_random] = len(sample) / max(len(pool), 1)
        return Ranking(indices, values, propensities)

    def _draw(
        self, images: int, budget: int, generator: Generator
    ) -> tuple[Int[Tensor, " K"], Int[Tensor, " K"]]:
        """Images at random, and their places in the batch; of part of an image, sometimes one."""
        share = self.uniform * budget
        count = int(share) + int(float(torch.rand((), generator=generator)) < share - int(share))
        sample = torch.randperm(images, generator=generator)[:count]
        return sample, torch.randperm(budget, generator=generator)[:count]

    def _choose(self, pool: Pool, budget: int, generator: Generator) -> Ranking:
        if pool.probabilities is None or pool.unseen:
            candidates = pool.sample(self.candidates)
            return self._cover(pool, candidates, budget, certain=True)
        by_gradient = round(_competence(pool) * budget)
        size = max(self.candidates, 2 * budget)
        doubtful = pool.best(
            self._doubt,
            max(size // 2, budget + FILTER * by_gradient),
            slope=CLOSENESS_SLOPE if self.temperature == 1 else None,
        ).indices
        candidates = _shortlist(pool, doubtful, size)
        first = self._cover(pool, candidates, budget - by_gradient, certain=False)
        if not by_gradient:
            return first
        free = torch.ones(len(pool), dtype=torch.bool)
        free[first.indices] = False
        doubtful = doubtful[free[doubtful]][: FILTER * by_gradient].sort().values
        picks, scores = kmeans_plus_plus_of_gradients(
            gradients(pool.part(doubtful)), by_gradient, generator
        )
        return _joined(first, Ranking(doubtful[picks], scores))

    def _doubt(self, probabilities: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
        return closeness(sharpen(probabilities, self.temperature))

    def _cover(
        self, pool: Pool, candidates: Int[Tensor, " K"], budget: int, *, certain: bool
    ) -> Ranking:
        """MaxHerding, or where the head has something to say, UHerding."""
        landmarks = pool.sample(self.landmarks)
        weights = None if certain else self._weights(pool.part(landmarks))
        kernel = gaussian(1.0 if certain else width(pool))
        return greedy(Herding(pool, landmarks, kernel, weights), candidates, budget)

    def _weights(self, pool: Pool) -> Float[Tensor, " N"]:
        """How much each image of a sample needs one like it to be labeled."""
        even = pool.classify()(pool.embeddings[pool.rows].float())
        likely = F.normalize(even * even.mean(dim=0), p=1, dim=1)
        return self._doubt(likely) * _rarity(likely, pool)


def _shortlist(pool: Pool, doubtful: Int[Tensor, " V"], size: int) -> Int[Tensor, " K"]:
    """All images up to `size`; beyond, half as many of the smallest margin and a uniform sample."""
    if len(pool) <= size:
        return torch.arange(len(pool))
    is_candidate = torch.zeros(len(pool), dtype=torch.bool)
    is_candidate[doubtful[: size // 2]] = True
    is_candidate[pool.sample(size - size // 2)] = True
    return is_candidate.nonzero().squeeze(1)


def _competence(pool: Pool) -> float:
    """How much of a batch BADGE picks: from 0, while the head is poor, towards 1."""
    skill = pool.skill() if pool.skill else None
    return 0.0 if skill is None else skill**PATIENCE


def _rarity(probabilities: Float[Tensor, "B C"], pool: Pool) -> Float[Tensor, " B"]:
    """The greater, the fewer labeled images the likely classes have."""
    images = torch.bincount(pool.targets, minlength=probabilities.shape[1]).clamp_min(1)
    return probabilities @ images.float().rsqrt()


def _joined(first: Ranking, second: Ranking) -> Ranking:
    """Two rankings by turns, each in its order."""
    order = torch.cat([torch.arange(len(r.indices)) / len(r.indices) for r in (first, second)])
    turns = order.argsort(stable=True)
    return Ranking(
        torch.cat([first.indices, second.indices])[turns],
        torch.cat([first.scores, second.scores])[turns],
    )
