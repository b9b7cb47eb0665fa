"""What one more label can change in a ranking, so that the rest is not computed again.

An image has the cosine <x, m> to a centroid. When the centroid moves from m to m', the cosine of an
image, whatever it is, moves by at most |m' - m|, since x has unit length. So what was known before
bounds what is true now, and only images whose bounds reach the best are looked at again.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.acquisition import Ranking, top
from models.heads import FittedHead, cosines, heads

WORN = 0.25  # move of a logit beyond which the cosines of its class are computed again
ROUNDING = 5e-6  # of a cosine in float32
ROWS_PER_BLOCK = 4096


def bounded(head: FittedHead) -> bool:
    """Whether the scores of a head are cosines to its centroids, so that all this holds.

    Other heads share what they learn among all classes: a label moves all their scores.
    """
    return isinstance(head.options, heads["cosine"])


@dataclass(frozen=True)
class Remembered:
    """Cosines of images to the centroids of a head as they were."""

    cosines: Float[Tensor, "M C"]
    centroids: Float[Tensor, "C D"]  # to which they are
    mean: Float[Tensor, " D"] | None  # that was subtracted from the images

    def fits(self, head: FittedHead, images: int) -> bool:
        """Whether the head sees images as it did, has as many classes, and no image is gone."""
        same = (
            self.mean is head.mean
            if self.mean is None or head.mean is None
            else torch.equal(self.mean, head.mean)
        )
        return same and len(self.centroids) == len(head.centroids) and len(self.cosines) <= images

    def moved(self, head: FittedHead) -> Float[Tensor, " C"]:
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

        With logits z that move by at most e_c, the uncertainty moves by at most
        sum_c e_c max |df/dz_c|, and p_c grows by a factor of at most exp(e_c + max e).

        Args:
            slope: |df/dz_c| <= slope p_c for all classes c.
        """
        moved = self.moved(head)
        growth = (moved + moved.max()).exp()
        far = (moved > 2 * ROUNDING / head.temperature).nonzero().squeeze(1)
        near = 2 * ROUNDING / head.temperature * float(growth.max())  # of all others together
        before, reach = torch.empty(len(rows)), torch.full((len(rows),), slope * near + ROUNDING)
        for start in range(0, len(rows), ROWS_PER_BLOCK):
            at = slice(start, start + ROWS_PER_BLOCK)
            probabilities = (self.cosines[rows[at]] / head.temperature).softmax(dim=1)
            before[at] = uncertainty(probabilities)
            if len(far):
                moving = (probabilities[:, far] * growth[far]).clamp_max(1) @ moved[far]
                reach[at] += slope * moving
        surely = (before - reach).topk(min(budget, len(rows))).values[-1]
        able = (before + reach >= surely).nonzero().squeeze(1)
        now = torch.cat(
            [
                uncertainty(head.probabilities(embeddings[rows[block]].float()))
                for block in torch.split(able, ROWS_PER_BLOCK)
            ]
        )
        found = top(now, budget)
        return Ranking(able[found.indices], found.scores)


def remember(
    head: FittedHead, embeddings: Float[Tensor, "M D"], before: Remembered | None = None
) -> Remembered:
    """Cosines that are close enough to those under a head that is `bounded`.

    Args:
        before: what was remembered of the first of these images. Only classes whose centroid has
            moved far since, and images that came since, are computed.
    """
    if before is None or not before.fits(head, len(embeddings)):
        known = _cosines(embeddings, head.centroids, head.mean)
        return Remembered(known, head.centroids, head.mean)
    later = _cosines(embeddings[len(before.cosines) :], before.centroids, head.mean)
    known = torch.cat([before.cosines, later]) if len(later) else before.cosines
    worn = (before.moved(head) > WORN).nonzero().squeeze(1)
    if not len(worn):
        return Remembered(known, before.centroids, head.mean)
    known = known.index_copy(1, worn, _cosines(embeddings, head.centroids[worn], head.mean))
    centroids = before.centroids.index_copy(0, worn, head.centroids[worn])
    return Remembered(known, centroids, head.mean)


def _cosines(
    embeddings: Float[Tensor, "M D"],
    centroids: Float[Tensor, "C D"],
    mean: Float[Tensor, " D"] | None,
) -> Float[Tensor, "M C"]:
    if not len(embeddings):
        return torch.empty(0, len(centroids))
    blocks = torch.split(embeddings, ROWS_PER_BLOCK)
    return torch.cat([cosines(block, centroids, mean) for block in blocks])
