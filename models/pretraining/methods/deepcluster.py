"""DeepCluster."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from models.encoders import Encoder
from models.pretraining import Family, Joint, Pretext, PretextLoss
from models.pretraining.layers import Bank, kmeans, projection_head
from models.pretraining.methods import methods
from models.pretraining.views import Views
from models.registry import require_within
from models.training.loop import Batch, Images, as_values

EMBEDDED = 64  # images at once, before the first epoch


@methods.register
@dataclass(frozen=True, kw_only=True)
class DeepCluster:
    """Alternate: cluster the features of all images, then predict each one's cluster.

    Caron et al., 2018 (https://arxiv.org/abs/1807.05520), in the second version, of which centres
    are the classifier (Caron et al., 2020, appendix D; https://arxiv.org/abs/2006.09882).
    """

    family: ClassVar[Family] = "cluster-based"
    fewest: ClassVar[int] = 1000
    unsuited: ClassVar[str] = "many more classes than clusters; a transformer in little time"

    clusters: int = 0  # 0: one for 20 images, at most 1000
    heads: int = 2  # clusterings at the same time
    temperature: float = 0.1
    projection: int = 128  # features that are clustered
    views: Views = field(default_factory=Views)

    def __post_init__(self) -> None:
        require_within(self, "clusters", 0, 100_000)
        require_within(self, "heads", 1, 10)
        require_within(self, "temperature", 1e-6, 100)
        require_within(self, "projection", 1, 2048)

    def build(self, encoder: Encoder, images: int) -> Pretext:
        clusters = min(self.clusters or min(max(2, images // 20), 1000), images)
        return _Objective(encoder, self, images, clusters)


class _Objective(Joint):
    assigned: Tensor
    centres: Tensor

    def __init__(self, encoder: Encoder, options: DeepCluster, images: int, clusters: int) -> None:
        super().__init__(encoder, options.views)
        self.options, width = options, encoder.embedding_dim
        self.chance = math.log(clusters)
        self.head = projection_head(width, width, options.projection)
        self.bank = Bank(images, options.projection)
        size = options.heads, clusters, options.projection
        self.register_buffer("assigned", torch.full((options.heads, images), -1))
        self.register_buffer("centres", torch.zeros(size))

    @torch.no_grad()
    def before_epoch(self, images: Images) -> None:
        if int(self.assigned[0, 0]) < 0:  # nothing was seen yet
            for positions in torch.split(torch.arange(len(images)), EMBEDDED):
                views = as_values(images[positions]).to(self.centres.device)
                self.bank.move(positions, self.head(self.encoder.features(views)), 0.0)
        for head in range(self.options.heads):
            self.centres[head], self.assigned[head] = kmeans(
                self.bank.features, self.centres.shape[1]
            )

    def pretext_loss(self, batch: Batch) -> PretextLoss:
        projected = [F.normalize(self.head(self.encoder.features(v)), dim=1) for v in batch.views]
        assigned = self.assigned[:, batch.positions.to(self.assigned.device)]  # (heads, B)
        losses = [
            F.cross_entropy(projection @ centres.T / self.options.temperature, target)
            for projection in projected
            for centres, target in zip(self.centres, assigned, strict=True)
        ]
        if self.training:
            self.bank.move(batch.positions, projected[0].detach(), 0.0)
        return PretextLoss(torch.stack(losses).mean(), projected)
