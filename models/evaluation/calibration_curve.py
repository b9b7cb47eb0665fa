"""How often predictions are right that claim a probability: the calibration curve."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BINS = 15  # of equal width, over probabilities of 0..1


class Reliability(NamedTuple):
    """Predictions in bins of their probability; bins without any are left out."""

    probability: Float[Tensor, " W"]  # mean, as claimed
    accuracy: Float[Tensor, " W"]  # share that is right
    counts: Int[Tensor, " W"]

    @property
    def error(self) -> float:
        """Expected calibration error: the mean gap between both (Naeini et al., 2015).

        https://doi.org/10.1609/aaai.v29i1.9602
        """
        gaps = (self.probability - self.accuracy).abs()
        return float((gaps * self.counts).sum() / self.counts.sum())


def reliability_curve(
    confidence: Float[Tensor, " M"], right: Bool[Tensor, " M"], bins: int = BINS
) -> Reliability:
    """Bin predictions by the probability of their class (Guo et al., 2017, section 2).

    https://arxiv.org/abs/1706.04599. Bins have equal width and include their upper end.
    """
    return curve_of(bin_sums(confidence, right, bins))


def bin_sums(
    confidence: Float[Tensor, " M"], right: Bool[Tensor, " M"], bins: int = BINS
) -> Float[Tensor, "3 W"]:
    """Of each bin its predictions, the sum of what they claim, and how many are right.

    Those of several parts of the predictions may be added.
    """
    which = (confidence.double() * bins).ceil().clamp(1, bins).long() - 1
    sums = torch.zeros(3, bins, dtype=torch.float64)
    sums[0] = torch.bincount(which, minlength=bins)
    sums[1].index_add_(0, which, confidence.double())
    sums[2].index_add_(0, which, right.double())
    return sums


def curve_of(sums: Float[Tensor, "3 W"]) -> Reliability:
    """The curve of predictions that are summed up in bins."""
    counts, claimed, right = sums[:, sums[0] > 0]
    return Reliability(claimed / counts, right / counts, counts.long())
