"""How good features are, with few labels or none."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

NEIGHBOURS = 20


TEMPERATURE = 0.07


QUERIES = 1024  # at once


def effective_rank(features: Float[Tensor, "B D"]) -> float:
    """How many directions the features of many images use, from 1 to the smaller axis.

    The exponential of the entropy of their singular values (RankMe, Garrido et al., 2023, equation
    1; https://arxiv.org/abs/2210.02885). Comparable between runs of one method only.
    """
    values = torch.linalg.svdvals(features.float())
    shares = values / values.sum().clamp_min(1e-12)
    return math.exp(float(torch.special.entr(shares).sum()))


def feature_std(features: Float[Tensor, "B D"]) -> float:
    """How far directions lie apart: 0 when all are one, 1 when they are spread over the sphere.

    The mean deviation of a component, times the root of their number.
    """
    unit = F.normalize(features.float(), dim=1)
    return float(unit.std(dim=0).mean()) * math.sqrt(features.shape[1])


def nearest_accuracy(
    embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"], neighbours: int = NEIGHBOURS
) -> float:
    """Share of the images, 0..1, that the most similar others tell the class of.

    Votes weigh exp(cosine / 0.07) as those of Wu et al., 2018, section 3.4; each image is left out
    of its own neighbours. https://arxiv.org/abs/1805.01978

    Args:
        neighbours: at most, of each image.
    """
    classes = int(targets.max()) + 1
    count = min(neighbours, len(embeddings) - 1)
    right = 0
    for positions in torch.split(torch.arange(len(embeddings)), QUERIES):
        cosines = embeddings[positions] @ embeddings.T
        cosines[torch.arange(len(positions)), positions] = -torch.inf
        alike, nearest = cosines.topk(count, dim=1)
        votes = torch.zeros(len(positions), classes)
        votes.scatter_add_(1, targets[nearest], (alike / TEMPERATURE).exp())
        right += int((votes.argmax(dim=1) == targets[positions]).sum())
    return right / len(embeddings)
