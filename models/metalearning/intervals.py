"""How far an accuracy over episodes can be trusted: for these images, for new ones, for new labels.

Many episodes of few images are one small sample drawn often. The interval over episodes shrinks
with every further one; it says how well these images were measured, not how well others would do.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.evaluation.intervals import Interval, normal_quantile, wilson

FEW_LABELS = 30  # below which which labels there are matters as much as which images


NORMAL_FROM = 30  # degrees of freedom from which an expansion around the normal is exact to 1e-6


class Difference(NamedTuple):
    """By how much a share in 0..1 is above another, and between what that lies, -1..1."""

    value: float
    low: float
    high: float


def over_episodes(accuracies: Float[Tensor, " R"], *, confidence: float = 0.95) -> Interval:
    """The mean, and z s / sqrt(R) around it, as papers print it: of these images, no others.

    Raises:
        ValueError: there are fewer than two episodes.
    """
    value, error = _mean_and_error(accuracies)
    return _bounded(value, normal_quantile((1 + confidence) / 2) * error)


class Separate(NamedTuple):
    """Episodes that share no image: an element for each label of each of them."""

    recalls: Float[Tensor, " M"]  # share of right answers, 0..1, or the difference of two
    episodes: Int[Tensor, " M"]  # from 0
    labels: Int[Tensor, " M"]  # of the data


def over_images(separate: Separate, queries: int, *, confidence: float = 0.95) -> Interval:
    """The mean over episodes that share no image, and where it lies for new images of the labels.

    The images of such episodes are independent (Lafargue et al., 2024,
    https://arxiv.org/abs/2409.02850). As they draw all labels about as often, how labels differ
    does not move their mean, and is taken off the variance.

    Args:
        queries: in all episodes together.

    Raises:
        ValueError: there are fewer than two episodes.
    """
    value, error, freedom = _mean_over_images(separate)
    return _scored(value, error, queries, freedom, confidence)


def over_labels(
    accuracies: Float[Tensor, " R"],
    present: Bool[Tensor, "R C"],
    images: int,
    *,
    confidence: float = 0.95,
) -> Interval | None:
    """The mean, and where it lies for new labels with images of their own: a jackknife over labels.

    Each label is left out once with all episodes that have it (Efron and Stein, 1981,
    https://doi.org/10.1214/aos/1176345462). How much the means without a label vary only because
    episodes were drawn is taken off, as Wager et al. (2014, https://arxiv.org/abs/1311.4555) do for
    a forest, and the error of the mean itself added. None where a label is missing in fewer than
    two episodes, or there are fewer than three labels.

    Args:
        present: which labels each episode has.
        images: of all labels together.
    """
    count = present.shape[1]
    without = (~present).double()
    absent = without.sum(dim=0)  # (C,) episodes
    if count < 3 or int(absent.min()) < 2:
        return None
    values = accuracies.double()
    means = values @ without / absent
    squares = (values[:, None] - means).square()
    variances = (squares * without).sum(dim=0) / (absent - 1)
    drawn = (variances * (1 / absent - 1 / len(values))).clamp_min(0).mean()
    deviations = (means - means.mean()).square().mean()
    value, error = _mean_and_error(values)
    variance = (count - 1) * float((deviations - drawn).clamp_min(0)) + error**2
    return _scored(value, math.sqrt(variance), images, count - 1, confidence)


def difference_over_episodes(
    first: Float[Tensor, " R"], second: Float[Tensor, " R"], *, confidence: float = 0.95
) -> Difference:
    """By how much the first is better on the same episodes, for these images.

    Paired: what makes an episode hard for both cancels.

    Raises:
        ValueError: there are fewer than two episodes.
    """
    value, error = _mean_and_error(first.double() - second.double())
    return _difference(value, normal_quantile((1 + confidence) / 2) * error)


def difference_over_images(difference: Separate, *, confidence: float = 0.95) -> Difference:
    """The mean difference over episodes that share no image, and where it lies for new images.

    It has no width where the difference is the same in each of them.

    Raises:
        ValueError: there are fewer than two episodes.
    """
    value, error, freedom = _mean_over_images(difference)
    return _difference(value, student_quantile((1 + confidence) / 2, freedom) * error)


def student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution, above the median.

    Below `NORMAL_FROM` degrees of freedom by bisection of its distribution function, which is a
    finite sum (Abramowitz and Stegun, 1964, 26.7.3 and 26.7.4), from there on by its expansion
    around the normal quantile (26.7.5).

    Raises:
        ValueError: there is no degree of freedom, or the probability is not in [0.5, 1).
    """
    if freedom < 1 or not 0.5 <= probability < 1:
        raise ValueError(
            "a quantile of Student's t needs a degree of freedom and a probability from 0.5 to "
            f"below 1, got {freedom} and {probability}"
        )
    if freedom >= NORMAL_FROM:
        z = normal_quantile(probability)
        terms = (
            z,
            (z**3 + z) / 4,
            (5 * z**5 + 16 * z**3 + 3 * z) / 96,
            (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
            (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
        )
        return math.fsum(term / float(freedom) ** power for power, term in enumerate(terms))
    low, high = 0.0, math.pi / 2  # the arc tangent of t over the root of the freedom
    for _ in range(60):
        middle = (low + high) / 2
        inside = _share_inside(middle, freedom)
        low, high = (middle, high) if inside < 2 * probability - 1 else (low, middle)
    return math.tan((low + high) / 2) * math.sqrt(freedom)


def _share_inside(angle: float, freedom: int) -> float:
    """The probability that t lies within -tan(angle) and tan(angle) times the root of freedom."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = cosine if odd else 1.0, 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def _mean_and_error(values: Float[Tensor, " R"]) -> tuple[float, float]:
    """The mean of independent values, and its standard error."""
    if len(values) < 2:
        raise ValueError(f"an interval needs two episodes, got {len(values)}")
    wide = values.double()
    return float(wide.mean()), float(wide.std()) / len(values) ** 0.5


def _mean_over_images(separate: Separate) -> tuple[float, float, int]:
    """The mean of episodes, its standard error, and the degrees of freedom of that.

    The variance is that of residuals, after the mean of each label. L labels in episodes of C take
    L / C degrees of freedom from the episodes: one where each has all labels.
    """
    recalls, episodes, labels = separate
    recalls = recalls.double()
    sizes = torch.bincount(episodes)
    if len(sizes) < 2:
        raise ValueError(f"an interval needs two episodes, got {len(sizes)}")
    sums = torch.zeros(int(labels.max()) + 1, dtype=torch.float64).index_add(0, labels, recalls)
    expected = (sums / torch.bincount(labels))[labels]
    accuracies, residuals = (
        torch.zeros(len(sizes), dtype=torch.float64).index_add(0, episodes, values) / sizes
        for values in (recalls, recalls - expected)
    )
    freedom = len(sizes) - int((torch.bincount(labels) > 0).sum()) * len(sizes) / len(labels)
    if freedom < 1:  # hardly a label comes twice
        freedom, residuals = len(sizes) - 1, accuracies - accuracies.mean()
    variance = float(residuals.square().sum()) / freedom
    return float(accuracies.mean()), math.sqrt(variance / len(sizes)), int(freedom)


def _scored(value: float, error: float, trials: int, freedom: int, confidence: float) -> Interval:
    """Wilson's interval, which stays within 0..1 and has a width where all is right.

    It is for as many trials as have this standard error, and fewer by what Student's t says of so
    few degrees of freedom (Korn and Graubard, 1998, Survey Methodology 24, page 193).

    Args:
        trials: where there is no error at all.
    """
    probability = (1 + confidence) / 2
    worth = value * (1 - value) / error**2 if error else float(trials)
    student = normal_quantile(probability) / student_quantile(probability, freedom)
    return wilson(value, worth * student**2, confidence=confidence)


def _bounded(value: float, reach: float) -> Interval:
    return Interval(value, max(0.0, value - reach), min(1.0, value + reach))


def _difference(value: float, reach: float) -> Difference:
    return Difference(value, max(-1.0, value - reach), min(1.0, value + reach))
