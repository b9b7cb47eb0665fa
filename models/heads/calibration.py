"""Honest probabilities: a temperature for scores, and how far probabilities are from the truth."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

TRUST = 0.25  # deviation of the log of a temperature around what a head expects of it


REACH = 3.0  # how far from it a temperature may be, as a log: a factor of 20


STEPS = 30  # of the golden section: 2 * REACH shrinks below 1e-5


SHRINK = (math.sqrt(5) - 1) / 2


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

    def cost(offset: float) -> float:
        logits = scores / (expected * math.exp(offset))
        loss = F.cross_entropy(logits, targets, reduction="sum")
        return float(loss) + offset**2 / (2 * TRUST**2)

    if not len(targets):
        return expected
    low, high = -REACH, REACH
    lower, upper = high - SHRINK * (high - low), low + SHRINK * (high - low)
    at_lower, at_upper = cost(lower), cost(upper)
    for _ in range(STEPS):  # one of the two points inside serves again
        if at_lower < at_upper:
            high, upper, at_upper = upper, lower, at_lower
            lower = high - SHRINK * (high - low)
            at_lower = cost(lower)
        else:
            low, lower, at_lower = lower, upper, at_upper
            upper = low + SHRINK * (high - low)
            at_upper = cost(upper)
    return expected * math.exp((low + high) / 2)


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
