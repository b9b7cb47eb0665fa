"""SwAV."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from models.encoders import Encoder, is_transformer
from models.pretraining import Family, Pretext, PretextLoss
from models.pretraining.layers import EmbeddingQueue, projection_head, sinkhorn
from models.pretraining.methods import methods
from models.pretraining.views import Views
from models.registry import require_within
from models.training.loop import Batch

FROZEN = 0.02  # share of the training in which prototypes stay as they are


QUEUE_FROM = 0.1  # share of the training from which on the queue helps


LOCAL_SHARE = 0.5  # of the side of an image: that of a small view (96 of 224 in the paper)


@methods.register
@dataclass(frozen=True, kw_only=True)
class SwAV:
    """Predict, from one view, the cluster that another view of the image was assigned to.

    Caron et al., 2020. https://arxiv.org/abs/2006.09882
    """

    family: ClassVar[Family] = "cluster-based"
    fewest: ClassVar[int] = 1000
    unsuited: ClassVar[str] = "fewer images than ten a prototype; a transformer in little time"

    prototypes: int = 0  # 0: one for 20 images, at most 1000
    local: int = 2  # small views of each image, besides two large ones; none for transformers
    temperature: float = 0.1
    epsilon: float = 0.05  # how soft assignments are
    queue: int = 2048  # features that help to assign small batches
    projection: int = 128  # features that are compared
    views: Views = field(default_factory=Views)

    def __post_init__(self) -> None:
        require_within(self, "prototypes", 0, 10_000)
        require_within(self, "local", 0, 10)
        require_within(self, "temperature", 1e-6, 100)
        require_within(self, "epsilon", 1e-3, 10)
        require_within(self, "queue", 0, 20_000)
        require_within(self, "projection", 1, 2048)

    def build(self, encoder: Encoder, images: int) -> Pretext:
        return _Objective(encoder, self, self.prototypes or min(max(2, images // 20), 1000))


class _Objective(Pretext):
    progress: Tensor

    def __init__(self, encoder: Encoder, options: SwAV, prototypes: int) -> None:
        super().__init__(encoder)
        self.options, width = options, encoder.embedding_dim
        self.chance = math.log(prototypes)
        self.local = 0 if is_transformer(encoder) else options.local
        self.head = projection_head(width, width, options.projection)
        self.prototypes = nn.Parameter(
            F.normalize(torch.randn(prototypes, options.projection), dim=1)
        )
        self.queue = EmbeddingQueue(options.queue, options.projection)
        self.register_buffer("progress", torch.tensor(0.0))

    def make_views(
        self, images: Tensor, shares: Float[Tensor, "B C"], generator: Generator
    ) -> tuple[list[Tensor], Float[Tensor, "B C"]]:
        views, side = self.options.views, round(LOCAL_SHARE * images.shape[-1])
        parts = replace(views, crop=views.crop / 2)
        large = [views(images, generator) for _ in range(2)]
        return large + [parts(images, generator, side) for _ in range(self.local)], shares

    def pretext_loss(self, batch: Batch) -> PretextLoss:
        projected = [F.normalize(self.head(self.encoder.features(v)), dim=1) for v in batch.views]
        prototypes = F.normalize(self.prototypes, dim=1)
        if float(self.progress) < FROZEN:
            prototypes = prototypes.detach()
        codes = self._codes(projected[:2], prototypes.detach(), batch)
        logs = [
            F.log_softmax(z @ prototypes.T / self.options.temperature, dim=1) for z in projected
        ]
        losses = [
            -(code * log).sum(dim=1).mean()  # equation 2
            for n, code in enumerate(codes)
            for m, log in enumerate(logs)
            if n != m
        ]
        return PretextLoss(torch.stack(losses).mean(), projected[:2])

    def after_step(self, progress: float) -> None:
        self.progress.fill_(progress)

    @torch.no_grad()
    def _codes(
        self, large: Sequence[Tensor], prototypes: Tensor, batch: Batch
    ) -> list[Float[Tensor, "B C"]]:
        """Assignments of the large views, beside those of what was seen before."""
        helped = float(self.progress) >= QUEUE_FROM
        before = self.queue.inside() if helped else self.queue.inside()[:0]
        codes = [
            sinkhorn(torch.cat([z, before]) @ prototypes.T, self.options.epsilon)[: len(z)]
            for z in large
        ]
        self.queue.push(torch.cat(list(large)), batch.positions.repeat(len(large)))
        return codes
