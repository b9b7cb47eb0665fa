"""Honest probabilities: a temperature for scores, and how far probabilities are from the truth."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

TRUST = 0.25  # deviation of the log of a temperature around what a head expects of it


FAR = -1e30  # in place of minus infinity, which times a probability of zero is not a number


REACH = 3.0  # how far from it a temperature may be, as a log: a factor of 20


STEPS = 50  # of Newton's method at most; four or five do


CLOSE = 1e-7  # between two logs of a temperature that are taken to be one


def log_loss(logits: Float[Tensor, "M C"], targets: Int[Tensor, " M"]) -> float:
    """Mean over classes of their mean negative log probability; rows that cannot know do not count.

    Classes count alike, however many rows each has: which of them have many labels says what was
    labeled, not what will be asked. A row cannot know its class where that has a logit of minus
    infinity, as in leave-one-out of a class of one shot. NaN when there is no other row.
    """
    able = logits.gather(1, targets[:, None]).squeeze(1).isfinite()
    logits, targets = logits[able].double(), targets[able]
    weights = 1 / torch.bincount(targets)[targets].double()
    losses = F.cross_entropy(logits, targets, reduction="none")
    return float((weights * losses).sum() / weights.sum())


def fit_temperature(
    scores: Float[Tensor, "M C"], targets: Int[Tensor, " M"], expected: float
) -> float:
    """The temperature that makes softmax(scores / temperature) likeliest (Guo et al., 2017).

    https://arxiv.org/abs/1706.04599 From few rows the likeliest is far off, so that there is a
    prior: the logarithm is normal around that of `expected`, with a deviation of `TRUST`. Without
    any row it is `expected`.

    Args:
        scores: of images that their head did not learn from, as by leave-one-out.
    """
    able = scores.gather(1, targets[:, None]).squeeze(1).isfinite()
    scores, targets = scores[able].double(), targets[able]
    if not len(targets):
        return expected
    scores = scores.clamp(min=FAR)
    low, high, offset = -REACH, REACH, 0.0  # logs of what multiplies the expected temperature
    for _ in range(STEPS):
        scaled = scores / (expected * math.exp(offset))
        slope, curvature = (float(value) for value in _derivatives(scaled, targets))
        slope, curvature = slope + offset / TRUST**2, curvature + 1 / TRUST**2
        low, high = (low, offset) if slope > 0 else (offset, high)
        following = offset - slope / curvature if curvature > 0 else math.nan
        if not low <= following <= high:
            following = (low + high) / 2
        offset, step = following, abs(following - offset)
        if step < CLOSE:
            break
    return expected * math.exp(offset)


def fit_temperatures(
    scores: Float[Tensor, "R M C"], targets: Int[Tensor, " M"], expected: float
) -> Float[Tensor, " R"]:
    """`fit_temperature` of many sets of scores at once, whose rows have the same classes.

    Args:
        scores: finite.
    """
    scores = scores.double()
    offset = torch.zeros(len(scores), dtype=torch.float64)
    low, high = offset - REACH, offset + REACH
    for _ in range(STEPS):
        slope, curvature = _derivatives(scores / (expected * offset.exp())[:, None, None], targets)
        slope, curvature = slope + offset / TRUST**2, curvature + 1 / TRUST**2
        low, high = low.where(slope > 0, offset), offset.where(slope > 0, high)
        following = offset - slope / curvature
        inside = (curvature > 0) & (low <= following) & (following <= high)
        following = following.where(inside, (low + high) / 2)
        step, offset = (following - offset).abs().max(), following
        if step < CLOSE:
            break
    return expected * offset.exp()


def _derivatives(
    logits: Float[Tensor, "*R M C"], targets: Int[Tensor, " M"]
) -> tuple[Float[Tensor, "*R"], Float[Tensor, "*R"]]:
    """First and second, of the sum of negative log probabilities by the log of a temperature."""
    probabilities = logits.softmax(-1)
    mean = (probabilities * logits).sum(-1)
    variance = (probabilities * (logits - mean[..., None]) ** 2).sum(-1)
    own = logits[..., torch.arange(len(targets)), targets]
    slope = (own - mean).sum(-1)
    return slope, variance.sum(-1) - slope


def expected_calibration_error(
    probabilities: Float[Tensor, "M C"], targets: Int[Tensor, " M"], *, bins: int = 15
) -> float:
    """How far confidence and share of right answers are apart on average (Naeini et al., 2015).

    https://doi.org/10.1609/aaai.v29i1.9602 Bins of equal width over the largest probability.
    """
    confidence, predicted = probabilities.double().max(dim=1)
    gaps = (predicted == targets).double() - confidence
    which = (confidence * bins).ceil().long().clamp(1, bins) - 1
    sums = torch.zeros(bins, dtype=torch.float64).index_add_(0, which, gaps)
    return float(sums.abs().sum() / len(targets))
