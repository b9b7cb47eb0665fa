"""How often predictions are right that claim a probability: the calibration curve."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


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
    confidence: Float[Tensor, " M"], right: Bool[Tensor, " M"], bins: int = 15
) -> Reliability:
    """Bin predictions by the probability of their class (Guo et al., 2017, section 2).

    https://arxiv.org/abs/1706.04599. Bins have equal width and include their upper end.
    """
    which = (confidence.double() * bins).ceil().clamp(1, bins).long() - 1
    counts = torch.bincount(which, minlength=bins)
    sums = torch.zeros(2, bins, dtype=torch.float64)
    sums[0].index_add_(0, which, confidence.double())
    sums[1].index_add_(0, which, right.double())
    filled = counts > 0
    claimed, accuracy = sums[:, filled] / counts[filled]
    return Reliability(claimed, accuracy, counts[filled])
