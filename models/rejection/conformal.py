"""Sets of classes that contain the true one as often as is asked for."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.heads import FittedHead, evenly_spread


@dataclass(frozen=True)
class PredictionSets:
    """Adaptive prediction sets (Romano, Sesia and Candès, 2020) from leave-one-out scores.

    https://arxiv.org/abs/2006.02544 Of their randomised sets it is the larger one in each case, so
    that the same image always has the same set and none is empty. It therefore contains the true
    class more often than asked where the likeliest class alone is right that often.

    Images are held against the head that was fitted to all, by the quantile of scores under heads
    without each image: the jackknife. Were the scores of other images exchangeable with these, the
    coverage would be at least what was asked for. They are not quite, since heads without an image
    know a shot less: it holds as far as one shot changes little, and the jackknife has no guarantee
    without that (Barber et al., 2021, https://arxiv.org/abs/1905.02928). With few shots the sets
    are too large rather than too small. It speaks of images of the known classes that have two
    shots or more, drawn as the labeled ones were.
    """

    scores: Float[Tensor, " K"]  # leave-one-out scores of true classes, ascending

    def contains(self, probabilities: Float[Tensor, "Q C"], coverage: float) -> Bool[Tensor, "Q C"]:
        """Which classes are in the set of each query; all, where too few scores are known."""
        return set_scores(probabilities) <= quantile(self.scores, coverage)


def fit(
    head: FittedHead, embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
) -> PredictionSets:
    """Score labeled images by leave-one-out; those alone in their class cannot be.

    Args:
        embeddings: what the head was fitted to.
        targets: their classes.
    """
    rows = evenly_spread(targets)
    rows = rows[torch.bincount(targets)[targets[rows]] > 1]
    probabilities = head.leave_one_out(embeddings[rows], targets[rows]).softmax(dim=1)
    true_scores = set_scores(probabilities).gather(1, targets[rows, None]).squeeze(1)
    return PredictionSets(true_scores.sort().values)


def set_scores(probabilities: Float[Tensor, "Q C"]) -> Float[Tensor, "Q C"]:
    """The least coverage whose set contains the class: what likelier classes have together."""
    ordered = probabilities.double().sort(dim=1, descending=True, stable=True)
    before = ordered.values.cumsum(dim=1) - ordered.values
    before[:, 0] = 0  # the likeliest class is in every set
    return torch.empty_like(before).scatter(1, ordered.indices, before.clamp_min(0))


def quantile(ascending: Float[Tensor, " K"], share: float) -> float:
    """What a further exchangeable score exceeds in at most 1 - `share` of the cases.

    The ceil((K + 1) share)-th least; infinite where that is more than K.
    """
    place = math.ceil((len(ascending) + 1) * share - 1e-9)  # 10 * 0.9 is more than 9 in floats
    return float(ascending[max(place, 1) - 1]) if place <= len(ascending) else math.inf
