"""What one more label can change in a ranking, so that the rest is not computed again.

An image has the cosine <x, m> to a centroid. When the centroid moves from m to m', the cosine of an
image, whatever it is, moves by at most |m' - m|, since x has unit length. So what was known before
bounds what is true now, and only images whose bounds reach the best are looked at again.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.acquisition import Ranking, top
from models.heads import CLOSE, FittedHead, centred_products, cosines, softmax
from models.heads.kinds import heads

WORN = 0.25  # move of a logit beyond which the cosines of its class are computed again


ROUNDING = 5e-6  # of a cosine in float32


ROWS_PER_BLOCK = 4096


def has_bounds(head: FittedHead) -> bool:
    """Whether the scores of a head are cosines to its centroids, so that all this holds.

    Other heads share what they learn among all classes: a label moves all their scores.
    """
    return isinstance(head.options, heads["cosine"])


@dataclass(frozen=True)
class RememberedCosines:
    """Cosines of images to the centroids of a head as they were."""

    cosines: Float[Tensor, "C M"]
    lengths: Float[Tensor, " M"]  # of the images less the mean
    centroids: Float[Tensor, "C D"]  # to which the cosines are
    mean: Float[Tensor, " D"] | None  # that was subtracted from the images

    def fits(self, head: FittedHead, images: int) -> bool:
        """Whether the head sees images as it did, has as many classes, and no image is gone."""
        same = (
            self.mean is head.mean
            if self.mean is None or head.mean is None
            else torch.equal(self.mean, head.mean)
        )
        return same and len(self.centroids) == len(head.centroids) and len(self.lengths) <= images

    def logit_moves(self, head: FittedHead) -> Float[Tensor, " C"]:
        """How far the logits of each class may be from the remembered ones, at most."""
        distances: Tensor = torch.linalg.vector_norm(head.centroids - self.centroids, dim=1)
        return (distances + ROUNDING) / head.temperature

    def best(
        self,
        head: FittedHead,
        embeddings: Float[Tensor, "M D"],
        rows: Int[Tensor, " N"],
        uncertainty: Callable[[Tensor], Tensor],
        slope: float,
        budget: int,
    ) -> Ranking:
        """`top` of the uncertainty of all rows under the head, by looking at some of them.

        With logits z that move by at most e_c, the uncertainty f moves by at most
        sum_c e_c max |df/dz_c|, and p_c grows by a factor of at most exp(e_c + max e). Where all
        move by what float32 rounds, e, log f moves by at most 2 e: f by a share of itself, which
        tells images apart that are all nearly certain.

        Args:
            slope: |df/dz_c| <= slope p_c for all classes c, and sum_c |df/dz_c| <= 2 f.
        """
        moves = self.logit_moves(head)
        growth = (moves + moves.max()).exp()
        affected = (moves > 2 * ROUNDING / head.temperature).nonzero().squeeze(1)
        rounding_share = math.expm1(2 * 2 * ROUNDING / head.temperature)
        before, reach = torch.empty(len(rows)), torch.empty(len(rows))
        for start in range(0, len(rows), ROWS_PER_BLOCK):
            at = slice(start, start + ROWS_PER_BLOCK)
            logits = self.cosines.index_select(1, rows[at]).T / head.temperature
            probabilities = softmax(logits)
            before[at] = uncertainty(probabilities)
            reach[at] = before[at] * rounding_share
            if len(affected):
                moving = (probabilities[:, affected] * growth[affected]).clamp_max(1) @ moves[
                    affected
                ]
                reach[at] += slope * moving
        surely = (before - reach).topk(min(budget, len(rows))).values[-1]
        able = (before + reach >= surely).nonzero().squeeze(1)
        uncertainties = torch.cat(
            [
                uncertainty(head.probabilities(embeddings[rows[block]].float()))
                for block in torch.split(able, ROWS_PER_BLOCK)
            ]
        )
        ranking = top(uncertainties, budget)
        return Ranking(able[ranking.indices], ranking.scores)


def remember(
    head: FittedHead, embeddings: Float[Tensor, "M D"], before: RememberedCosines | None = None
) -> RememberedCosines:
    """Cosines that are close enough to those under a head that `has_bounds`.

    Args:
        before: what was remembered of the first of these images. Only classes whose centroid has
            moved far since, and images that came since, are computed.
    """
    if before is None or not before.fits(head, len(embeddings)):
        similarities, lengths = _look(embeddings, head.centroids, head.mean)
        return RememberedCosines(similarities, lengths, head.centroids, head.mean)
    similarities, lengths = before.cosines, before.lengths
    if len(lengths) < len(embeddings):
        later = _look(embeddings[len(lengths) :], before.centroids, head.mean)
        similarities, lengths = (
            torch.cat([similarities, later[0]], dim=1),
            torch.cat([lengths, later[1]]),
        )
    worn = (before.logit_moves(head) > WORN).nonzero().squeeze(1)
    if not len(worn):
        return RememberedCosines(similarities, lengths, before.centroids, head.mean)
    recomputed = _look_again(embeddings, lengths, head.centroids[worn], head.mean)
    centroids = before.centroids.index_copy(0, worn, head.centroids[worn])
    return RememberedCosines(
        similarities.index_copy(0, worn, recomputed), lengths, centroids, head.mean
    )


def _look(
    embeddings: Float[Tensor, "M D"],
    centroids: Float[Tensor, "C D"],
    mean: Float[Tensor, " D"] | None,
) -> tuple[Float[Tensor, "C M"], Float[Tensor, " M"]]:
    """Cosines, and lengths of the embeddings less the mean."""
    similarities, lengths = (
        torch.empty(len(centroids), len(embeddings)),
        torch.empty(len(embeddings)),
    )
    for start in range(0, len(embeddings), ROWS_PER_BLOCK):
        at = slice(start, start + ROWS_PER_BLOCK)
        products, lengths[at] = centred_products(embeddings[at], centroids, mean)
        similarities[:, at] = (products / lengths[at, None]).T
    return similarities, lengths


def _look_again(
    embeddings: Float[Tensor, "M D"],
    lengths: Float[Tensor, " M"],
    centroids: Float[Tensor, "K D"],
    mean: Float[Tensor, " D"] | None,
) -> Float[Tensor, "K M"]:
    """Cosines, from the lengths that are known."""
    similarities = torch.empty(len(centroids), len(embeddings))
    offset = 0 if mean is None else (centroids @ mean)[:, None]
    for start in range(0, len(embeddings), ROWS_PER_BLOCK):
        at = slice(start, start + ROWS_PER_BLOCK)
        similarities[:, at] = (centroids @ embeddings[at].float().T - offset) / lengths[at]
    close = (lengths < CLOSE**0.5).nonzero().squeeze(1)  # of images of unit length
    if mean is not None and len(close):
        similarities[:, close] = cosines(embeddings[close], centroids, mean).T
    return similarities
