"""Losses that compare an image with its other views and with other images."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """How views of one image attract, and those of others repel each other.

    `info_nce`: tell the other view from all negatives (van den Oord et al., 2018, equation 4;
    https://arxiv.org/abs/1807.03748). `nce`: tell for each alone whether it is the other view, as
    noise-contrastive estimation does (Wu et al., 2018, equations 5 to 7;
    https://arxiv.org/abs/1805.01978). `triplet`: be nearer to the other view than to a negative, by
    a margin: to the nearest of those that are farther away than the other view, and where none is,
    to the farthest. The very nearest would make all images alike (Schroff et al., 2015, section
    3.2; https://arxiv.org/abs/1503.03832).
    """

    loss: Literal["info_nce", "nce", "triplet"] = "info_nce"
    similarity: Literal["cosine", "squared_euclidean"] = "cosine"
    temperature: float = 0.2  # of info_nce and nce
    margin: float = 0.5  # of triplet

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"margin must not be negative, got {self.margin}")

    def __call__(
        self,
        queries: Float[Tensor, "B P"],
        keys: Float[Tensor, "B P"],
        negatives: Float[Tensor, "J P"],
        is_own: Bool[Tensor, "B J"],
    ) -> Float[Tensor, ""]:
        """The mean loss of the queries.

        Args:
            keys: another view of each query's image.
            negatives: of any images, those of the query among them.
            is_own: which of the negatives show the query's image; they are left out.
        """
        if self.similarity == "cosine":
            queries, keys, negatives = (
                F.normalize(vectors, dim=1) for vectors in (queries, keys, negatives)
            )
            alike = (queries * keys).sum(dim=1)
            unlike = queries @ negatives.T  # (B, J)
        else:
            alike = -(queries - keys).square().sum(dim=1)
            unlike = -torch.cdist(queries, negatives).square()
        return getattr(self, f"_{self.loss}")(alike, unlike, is_own)  # type: ignore[no-any-return]

    def chance(self, negatives: int) -> float:
        """The loss of what tells no image from another."""
        if self.loss == "triplet":
            return self.margin
        noise = negatives * math.log1p(1 / negatives) if self.loss == "nce" else 0.0
        return math.log1p(negatives) + noise

    def _info_nce(self, alike: Tensor, unlike: Tensor, is_own: Tensor) -> Tensor:
        unlike = unlike.masked_fill(is_own, -torch.inf)
        logits = torch.cat([alike.unsqueeze(1), unlike], dim=1) / self.temperature
        return F.cross_entropy(
            logits, torch.zeros(len(logits), dtype=torch.long, device=is_own.device)
        )

    def _nce(self, alike: Tensor, unlike: Tensor, is_own: Tensor) -> Tensor:
        """With as much noise as there are negatives, and its constant from this batch."""
        alike, unlike = alike / self.temperature, unlike / self.temperature
        count = (~is_own).sum(dim=1).clamp_min(1)
        with torch.no_grad():  # Z of the paper, estimated over the negatives
            constant = unlike.masked_fill(is_own, -torch.inf).logsumexp(dim=1) - count.log()
        # Posterior odds of data against noise: exp(s) / Z over m times the noise's 1.
        log_odds = alike - constant - count.log()
        against = unlike - (constant + count.log()).unsqueeze(1)
        noise = F.softplus(against).masked_fill(is_own, 0.0).sum(dim=1)
        return (F.softplus(-log_odds) + noise).mean()

    def _triplet(self, alike: Tensor, unlike: Tensor, is_own: Tensor) -> Tensor:
        farther = ~is_own & (unlike < alike.unsqueeze(1))
        semihard = unlike.masked_fill(~farther, -torch.inf).amax(dim=1)
        farthest = unlike.masked_fill(is_own, torch.inf).amin(dim=1)
        negative = torch.where(farther.any(dim=1), semihard, farthest)
        return F.relu(negative - alike + self.margin).mean()


def swapped(
    contrast: Contrast, first: Float[Tensor, "B P"], second: Float[Tensor, "B P"]
) -> Float[Tensor, ""]:
    """Both views as queries, with all other images of the batch as negatives (NT-Xent).

    Chen et al., 2020, equation 1. https://arxiv.org/abs/2002.05709
    """
    views = torch.cat([first, second])  # (2B, P)
    image = torch.arange(len(first), device=views.device).repeat(2)
    is_own = image.unsqueeze(1) == image
    return contrast(views, views.roll(len(first), dims=0), views, is_own)
