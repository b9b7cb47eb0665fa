"""Several centroids for each class."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import functional as F

from models.embeddings import clusters
from models.heads import (
    ROWS_PER_BLOCK,
    CenteredHead,
    FittedHead,
    Support,
    best_by_leave_one_out,
    center_and_normalize,
    class_means,
)
from models.heads.kinds import heads
from models.registry import require_within

NUMBERS = (1, 2, 3, 5)  # of centroids, to choose from


WIDTH = 0.1  # a centroid whose cosine is lower by this has 1 / e of the weight


# Measured with EfficientNet-Lite0 on photos of clothes, on hands and on digits:
EXPECTED_TEMPERATURE = 0.06


EXPECTED_CENTERED = 0.135


@heads.register
@dataclass(frozen=True, kw_only=True)
class MultiCentroid(CenteredHead):
    """Nearest of several centroids per class, for classes that come in several looks.

    Each class is a mixture of its k clusters (Hastie and Tibshirani, 1996), which k-means finds
    once; that some classes need more prototypes than others was also seen with learned features
    (Allen et al., 2019). https://doi.org/10.1111/j.2517-6161.1996.tb02073.x
    https://arxiv.org/abs/1902.04552 With one centroid each it is `cosine`.
    """

    centroids: int | None = None  # of each class, at most half its shots; None: chosen
    seed: int = 0  # of k-means
    temperature: float | None = None  # divides cosines before the softmax; None: fitted

    def __post_init__(self) -> None:
        require_within(self, "centroids", 1, 100)
        require_within(self, "seed", 0, 2**31)
        require_within(self, "temperature", 1e-3, 100)

    def fit_support(self, support: Support) -> "FittedMultiCentroid":
        """Cluster the shots of each class; choose into how many clusters if that is None."""
        most = max(int(support.shots.max()) // 2, 1)
        choices = [k for k in NUMBERS if k <= most]
        fitted = []
        for number in choices if self.centroids is None else [self.centroids]:
            centres = _centres(support, min(number, most), self.seed)
            groups = _groups(support.normalized, support.targets, centres)
            # A cluster is to its number what a class is to its target.
            flat = support.targets * centres.shape[1] + groups
            members = torch.bincount(flat, minlength=centres.shape[0] * centres.shape[1])
            means = class_means(support.normalized, flat, members)
            head = FittedMultiCentroid(
                options=replace(self, centroids=number),
                temperature=1.0,
                mean=support.mean,
                centroids=support.centroids,
                centres=centres,
                sums=(means * members[:, None]).nan_to_num(0).view(centres.shape),
                members=members.view(centres.shape[:2]),
            )
            fitted.append(head)
        expected = EXPECTED_CENTERED if self.centered else EXPECTED_TEMPERATURE
        return best_by_leave_one_out(fitted, support, expected)


@dataclass(frozen=True, kw_only=True)
class FittedMultiCentroid(FittedHead):
    """The clusters of each class; those without members count for nothing."""

    centres: Float[Tensor, "C K D"]  # of k-means, which say what belongs to which; NaN: none
    sums: Float[Tensor, "C K D"]  # of members, in float64
    members: Int[Tensor, "C K"]

    def scores(self, queries: Float[Tensor, "Q D"]) -> Float[Tensor, "Q C"]:
        """Cosines to the centroids of each class, joined by a logsumexp with their shares."""
        units = F.normalize(center_and_normalize(queries, self.mean), dim=1)
        return WIDTH * self._weights(units).log()

    def leave_one_out_scores(
        self, embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
    ) -> Float[Tensor, "M C"]:
        """Only one centroid of the own class changes: it is the sum of its other members.

        All other images stay in the cluster that k-means gave them with the image at hand; k-means
        without it could give them others. A centroid without other members is lost.
        """
        normalized = center_and_normalize(embeddings, self.mean).double()
        units = F.normalize(normalized, dim=1)
        weights = self._weights(units)
        groups = _groups(normalized, targets, self.centres)
        own_weight = torch.zeros(len(targets), dtype=torch.float64)
        for k in range(self.centres.shape[1]):
            is_member = groups == k
            downdated = self.sums[targets, k] - normalized * is_member[:, None]
            cosines = (units * F.normalize(downdated, dim=1)).sum(dim=1)
            own_weight += (self.members[targets, k] - is_member.long()) * (cosines / WIDTH).exp()
        own_weight /= (self.members[targets].sum(dim=1) - 1).clamp_min(1)
        return WIDTH * weights.scatter(1, targets[:, None], own_weight[:, None]).log()

    def _weights(self, units: Float[Tensor, "Q D"]) -> Float[Tensor, "Q C"]:
        """The mean of exp(cosine / `WIDTH`) over the members' centroids; at most e^10."""
        total = units.new_zeros(len(units), len(self.members))
        shares = (self.members / self.members.sum(dim=1, keepdim=True)).to(units.dtype)
        for share, sums in zip(shares.unbind(dim=1), self.sums.unbind(dim=1), strict=True):
            directions = F.normalize(sums, dim=1).to(units.dtype)
            total += share * (units @ directions.T / WIDTH).exp()
        return total


def _centres(support: Support, number: int, seed: int) -> Float[Tensor, "C K D"]:
    """k-means of each class, the same in whatever order the shots come."""
    generator = Generator().manual_seed(seed)
    normalized, dim = support.normalized.float(), support.normalized.shape[1]
    line = torch.randn(dim, generator=generator, dtype=torch.float64)
    order = (support.normalized.double() @ line).argsort(stable=True)
    by_class = order[support.targets[order].argsort(stable=True)]
    centres = torch.full((len(support.shots), number, dim), torch.nan)
    for target, rows in enumerate(torch.split(by_class, support.shots.tolist())):
        class_centres = clusters.fit(
            normalized[rows], min(number, max(len(rows) // 2, 1)), generator
        ).centres
        centres[target, : len(class_centres)] = class_centres
    return centres


def _groups(
    normalized: Float[Tensor, "M D"], targets: Int[Tensor, " M"], centres: Float[Tensor, "C K D"]
) -> Int[Tensor, " M"]:
    """The nearest centre of the own class; not by a matrix product, whose last digits vary."""
    parts = []
    for rows in torch.split(torch.arange(len(targets)), ROWS_PER_BLOCK):
        wide, classes = normalized[rows].double(), targets[rows]
        distances = [
            (wide - centres[classes, k]).square().sum(dim=1) for k in range(centres.shape[1])
        ]
        parts.append(torch.stack(distances, dim=1).nan_to_num(torch.inf).argmin(dim=1))
    return torch.cat(parts)
