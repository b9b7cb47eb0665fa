"""How far an accuracy over episodes can be trusted: for these images, for new ones, for new labels.

Many episodes of few images are one small sample drawn often. The interval over episodes shrinks
with every further one; it says how well these images were measured, not how well others would do.
"""

import math
from typing import NamedTuple

from jaxtyping import Bool, Float
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


def over_images(
    accuracies: Float[Tensor, " R"], queries: int, *, confidence: float = 0.95
) -> Interval:
    """The mean over episodes that share no image, and where it lies for new images of the labels.

    Such episodes are independent (Lafargue et al., 2024, https://arxiv.org/abs/2409.02850). The
    interval is Wilson's, which stays within 0..1 and has a width where all is right, for as many
    trials as have the variance of the mean, fewer by what Student's t says of so few episodes (Korn
    and Graubard, 1998, Survey Methodology 24, page 193).

    Args:
        queries: in all episodes together; no more trials can there be.

    Raises:
        ValueError: there are fewer than two episodes.
    """
    value, error = _mean_and_error(accuracies)
    normal = normal_quantile((1 + confidence) / 2)
    worth = min(value * (1 - value) / error**2 if error else math.inf, float(queries))
    student = student_quantile((1 + confidence) / 2, len(accuracies) - 1)
    return wilson(value, worth * (normal / student) ** 2, confidence=confidence)


def over_labels(
    accuracies: Float[Tensor, " R"], present: Bool[Tensor, "R C"], *, confidence: float = 0.95
) -> Interval | None:
    """The mean, and where it lies for new labels with images of their own: a jackknife over labels.

    Each label is left out once with all episodes that have it (Efron and Stein, 1981,
    https://doi.org/10.1214/aos/1176345462). How much the means without a label vary only because
    episodes were drawn is taken off, as Wager et al. (2014, https://arxiv.org/abs/1311.4555) do for
    a forest, and the error of the mean itself added. None where a label is missing in fewer than
    two episodes, or there are fewer than three labels.

    Args:
        present: which labels each episode has.
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
    return _bounded(value, student_quantile((1 + confidence) / 2, count - 1) * variance**0.5)


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


def difference_over_images(
    first: Float[Tensor, " R"], second: Float[Tensor, " R"], *, confidence: float = 0.95
) -> Difference:
    """By how much the first is better on the same episodes that share no image, for new images.

    It has no width where the difference is the same in each of them.

    Raises:
        ValueError: there are fewer than two episodes.
    """
    value, error = _mean_and_error(first.double() - second.double())
    return _difference(value, student_quantile((1 + confidence) / 2, len(first) - 1) * error)


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


def _bounded(value: float, reach: float) -> Interval:
    return Interval(value, max(0.0, value - reach), min(1.0, value + reach))


def _difference(value: float, reach: float) -> Difference:
    return Difference(value, max(-1.0, value - reach), min(1.0, value + reach))
