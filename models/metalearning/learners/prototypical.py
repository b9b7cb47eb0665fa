"""Prototypical networks."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from models.encoders import Encoder
from models.metalearning import Episodic, WarmedUp
from models.metalearning.learners import learners
from models.registry import require_within

SCALE = 10.0  # of cosines, at the start


REFINEMENTS = 3  # of several centroids of a label


@learners.register
@dataclass(frozen=True, kw_only=True)
class Prototypical:
    """Bring queries near the mean of the shots of their label, and away from other means.

    Snell et al., 2017, equation 2. https://arxiv.org/abs/1703.05175

    With `cosine` vectors have unit length, as those that serve, and a scale is learned (Chen et
    al., 2021, https://arxiv.org/abs/2003.04390). With several centroids of a label, its shots
    divide softly among them (in the way of Allen et al., 2019, whose number of centroids is
    inferred instead, https://arxiv.org/abs/1902.04552).

    With `warm_up`, ordinary classification of all labels to learn from comes first (Chen et al.,
    2021): see `WarmedUp`.
    """

    fewest_labels: ClassVar[int] = 20
    unsuited: ClassVar[str] = (
        "labels of several looks, of which a mean says little; use several `centroids` then"
    )

    distance: Literal["euclidean", "cosine"] = "euclidean"  # squared, of vectors of any length
    centroids: int = 1  # of each label; not more than it has shots
    warm_up: int = 0  # epochs of classification before those of episodes, of as many steps each

    def __post_init__(self) -> None:
        require_within(self, "centroids", 1, 10)
        require_within(self, "warm_up", 0, 1000)

    def build(self, encoder: Encoder, *, fresh: bool) -> Episodic:
        return _Objective(encoder, self, fresh=fresh)


class _Objective(WarmedUp):
    def __init__(self, encoder: Encoder, options: Prototypical, *, fresh: bool) -> None:
        super().__init__(encoder, fresh=fresh, warm_up=options.warm_up)
        self.options = options
        if options.distance == "cosine":
            self.log_scale = nn.Parameter(torch.tensor(SCALE).log())

    def prepare(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        cosine = self.options.distance == "cosine"
        return self.in_parts(self.encoder if cosine else self.encoder.features, images)

    def logits(
        self, support: Float[Tensor, "C K D"], query: Float[Tensor, "Q D"]
    ) -> Float[Tensor, "Q C"]:
        """-|f(x) - c|^2, or the cosine by a scale; the log of the sum over centroids of a label."""
        centroids = self._centroids(support)  # (C, J, D)
        closeness = self._closeness(query, centroids.flatten(0, 1))
        return closeness.view(len(query), *centroids.shape[:2]).logsumexp(dim=2)

    def _closeness(
        self, vectors: Float[Tensor, "Q D"], centroids: Float[Tensor, "C D"]
    ) -> Float[Tensor, "Q C"]:
        if self.options.distance == "cosine":
            cosines = vectors @ F.normalize(centroids, dim=1).T
            scaled: Tensor = self.log_scale.exp() * cosines
            return scaled
        lengths = vectors.square().sum(dim=1, keepdim=True) + centroids.square().sum(dim=1)
        return 2 * vectors @ centroids.T - lengths

    def _centroids(self, support: Float[Tensor, "C K D"]) -> Float[Tensor, "C J D"]:
        count = min(self.options.centroids, support.shape[1])
        if count == 1:
            return support.mean(dim=1, keepdim=True)
        return torch.stack([self._refined(shots, shots[:count]) for shots in support])

    def _refined(
        self, shots: Float[Tensor, "K D"], centroids: Float[Tensor, "J D"]
    ) -> Float[Tensor, "J D"]:
        """Soft k-means, from the first shots."""
        for _ in range(REFINEMENTS):
            shares = self._closeness(shots, centroids).softmax(dim=1)  # (K, J)
            centroids = shares.T @ shots / shares.sum(dim=0)[:, None].clamp_min(1e-6)
        return centroids
