"""How often a head is right, with an interval, from images that it was not fitted to."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Interval(NamedTuple):
    """A value in 0..1, and between what it lies with the confidence that was asked for."""

    value: float
    low: float
    high: float


def wilson(share: float, trials: float, *, confidence: float = 0.95) -> Interval:
    """The score interval of a share (Wilson, 1927), which keeps within 0..1 and at 0 and 1 too.

    https://doi.org/10.1080/01621459.1927.10502953

    Args:
        trials: how many there were; not whole where weights make some of them count less.

    Raises:
        ValueError: there were no trials.
    """
    if trials <= 0:
        raise ValueError(f"an interval needs trials, got {trials}")
    z = normal_quantile((1 + confidence) / 2)
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    reach = z / (1 + z**2 / trials) * (share * (1 - share) / trials + (z / trials) ** 2 / 4) ** 0.5
    return Interval(
        share, max(min(centre - reach, share), 0.0), min(max(centre + reach, share), 1.0)
    )


def skill(right: Bool[Tensor, " M"], targets: Int[Tensor, " M"]) -> float:
    """Accuracy beyond that of always saying the most frequent class: 0 at or below it, 1 at best.

    (accuracy - chance) / (1 - chance), the skill score of forecasts (Murphy, 1988).
    https://doi.org/10.1175/1520-0493(1988)116<2417:SSBOTM>2.0.CO;2
    """
    chance = int(torch.bincount(targets).max()) / len(targets)
    if chance == 1:
        return 0.0
    return max(0.0, (float(right.double().mean()) - chance) / (1 - chance))


def normal_quantile(probability: float) -> float:
    """The quantile of the standard normal distribution."""
    return float(torch.special.ndtri(torch.tensor(probability, dtype=torch.float64)))


def weighted_accuracy(
    right: Bool[Tensor, " M"], weights: Float[Tensor, " M"], *, confidence: float = 0.95
) -> Interval:
    """The share that is right when images count by weight, and its interval.

    Self-normalised importance sampling: weights are divided by their sum. The interval is Wilson's
    for as many trials as the weights are worth, (sum w)^2 / sum w^2 (Kish, 1965).

    Raises:
        ValueError: no weight is above zero.
    """
    total = float(weights.sum())
    if total <= 0:
        raise ValueError("weights sum to zero, so no image counts")
    share = float((weights * right).sum()) / total
    return wilson(share, total**2 / float(weights.square().sum()), confidence=confidence)


def lure_weights(propensities: Float[Tensor, " M"], pool: int) -> Float[Tensor, " M"]:
    """What labels that were chosen actively must count so that their mean is that of the pool.

    "Levelled unbiased risk estimator" (Farquhar et al., 2021, equation 5,
    https://arxiv.org/abs/2101.11665): the m-th of M picks from N images counts
    1 + (N - M) / (N - m) (1 / ((N - m + 1) q_m) - 1). Uniform picks all count 1.

    Args:
        propensities: q, the probability of each pick among what was left, in the order of picking.
        pool: N, images before the first pick.

    Raises:
        ValueError: a propensity is not in (0, 1], or there were fewer images than picks.
    """
    picks = len(propensities)
    if pool < picks:
        raise ValueError(f"{picks} images cannot have been picked from {pool}")
    if not bool(((propensities > 0) & (propensities <= 1)).all()):
        raise ValueError("propensities must be above 0 and at most 1")
    remaining = pool - torch.arange(picks, dtype=torch.float64)  # N - m + 1
    share = (pool - picks) / (remaining - 1).clamp_min(1)  # of the last image of a pool: 0
    return 1 + share * (1 / (remaining * propensities) - 1)
