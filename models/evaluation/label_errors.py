"""Labels that are probably wrong, by confident learning (Northcutt et al., 2021).

https://arxiv.org/abs/1911.00068. Needs probabilities by models that did not see the image's own
label, such as leave-one-out gives.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROUNDING = 1e-6  # the only image of a class is as probable as the mean over its images


class LabelErrors(NamedTuple):
    """Images whose label is probably wrong, the surest first."""

    rows: Int[Tensor, " K"]
    suggested: Int[Tensor, " K"]  # the class that they probably are of
    probability: Float[Tensor, " K"]  # of that class


def confident_joint(
    probabilities: Float[Tensor, "M C"], targets: Int[Tensor, " M"]
) -> Int[Tensor, "C C"]:
    """How many images with each label (row) are confidently of each class (column).

    An image counts for its likeliest class among those whose probability reaches the threshold of
    the class, which is the mean over the images that have its label (equations 1 and 2).
    """
    classes = probabilities.shape[1]
    confident = _confident_class(probabilities, targets)
    counted = confident >= 0
    flat = torch.bincount(targets[counted] * classes + confident[counted], minlength=classes**2)
    return flat.view(classes, classes)


def label_quality(
    probabilities: Float[Tensor, "M C"], targets: Int[Tensor, " M"]
) -> Float[Tensor, " M"]:
    """Normalised margin in 0..1: probability of the label above the likeliest other; low is bad.

    (p_label - max p_other + 1) / 2 (Northcutt et al., 2021, section 3.2).
    """
    self_confidence = probabilities.gather(1, targets[:, None]).squeeze(1)
    rivals = probabilities.scatter(1, targets[:, None], -torch.inf)
    return (self_confidence - rivals.max(dim=1).values + 1) / 2


def label_errors(probabilities: Float[Tensor, "M C"], targets: Int[Tensor, " M"]) -> LabelErrors:
    """The images off the diagonal of the confident joint, by normalised margin.

    Equation 1, "method 2: C_confusion" of section 3.2. An image is listed only when its label is
    not the likeliest class too, so that the suggestion is what the head would say.
    """
    confident = _confident_class(probabilities, targets)
    likeliest = probabilities.argmax(dim=1)
    wrong = (confident >= 0) & (confident != targets) & (likeliest != targets)
    rows = wrong.nonzero().squeeze(1)
    order = label_quality(probabilities[rows], targets[rows]).argsort(stable=True)
    rows = rows[order]
    suggested = confident[rows]
    return LabelErrors(rows, suggested, probabilities[rows, suggested])


def _confident_class(
    probabilities: Float[Tensor, "M C"], targets: Int[Tensor, " M"]
) -> Int[Tensor, " M"]:
    """The likeliest class that reaches its threshold; -1 where none does."""
    shots = torch.bincount(targets, minlength=probabilities.shape[1])
    sums = torch.zeros(probabilities.shape[1], dtype=torch.float64)
    self_confidence = probabilities.gather(1, targets[:, None]).squeeze(1)
    thresholds = (
        sums.index_add_(0, targets, self_confidence.double()) / shots
    )  # NaN without images: never
    above = probabilities >= thresholds - ROUNDING
    best = probabilities.masked_fill(~above, -torch.inf).argmax(dim=1)
    return torch.where(above.any(dim=1), best, -1)
