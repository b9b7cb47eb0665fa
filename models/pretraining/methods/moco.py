"""MoCo."""

import copy
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from models.encoders import Encoder
from models.pretraining import Family, Joint, Pretext, PretextLoss
from models.pretraining.layers import EmbeddingQueue, follow, projection_head
from models.pretraining.losses import Contrast
from models.pretraining.methods import methods
from models.pretraining.views import Views
from models.registry import require_within
from models.training.loop import Batch

PARTS = 4  # of a batch of keys: statistics of a whole one would tell which negatives are older


@methods.register
@dataclass(frozen=True, kw_only=True)
class MoCo:
    """Recognise a view, as a slowly moving copy sees it, among a queue of older ones.

    He et al., 2020. https://arxiv.org/abs/1911.05722; the second version has a deeper head and
    stronger views (https://arxiv.org/abs/2003.04297). What the queue holds of the same image is
    no negative of it, which matters where images are few.
    """

    family: ClassVar[Family] = "contrastive"
    fewest: ClassVar[int] = 500
    unsuited: ClassVar[str] = (
        "fewer images than a few batches, since the queue would hold only them; a transformer in "
        "little time"
    )

    version: Literal[1, 2] = 2
    momentum: float = 0.99  # of the copy
    queue: int = 4096  # features; at most two of each image
    projection: int = 128  # features that are compared
    contrast: Contrast = field(default_factory=Contrast)
    views: Views = field(default_factory=Views)

    def __post_init__(self) -> None:
        require_within(self, "momentum", 0, 1)
        require_within(self, "queue", 1, 1_000_000)
        require_within(self, "projection", 1, 2048)

    def build(self, encoder: Encoder, images: int) -> Pretext:
        return _Objective(encoder, self, min(self.queue, 2 * images))


class _Objective(Joint):
    def __init__(self, encoder: Encoder, options: MoCo, length: int) -> None:
        super().__init__(encoder, options.views)
        self.options, width = options, encoder.embedding_dim
        self.head = projection_head(width, width, options.projection, layers=options.version)
        self.slow_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.slow_head = copy.deepcopy(self.head).requires_grad_(False)
        self.queue = EmbeddingQueue(length, options.projection)

    def pretext_loss(self, batch: Batch) -> PretextLoss:
        queries = self.head(self.encoder.features(batch.views[0]))
        keys = self._keys(batch.views[1])
        if not int(self.queue.filled):
            self.queue.push(keys.roll(1, dims=0), batch.positions.roll(1))
        negatives, is_own = self.queue.inside().clone(), self.queue.of(batch.positions)
        loss = self.options.contrast(queries, keys, negatives, is_own)
        self.chance = self.options.contrast.chance(len(negatives))
        if self.training:
            self.queue.push(keys, batch.positions)
        return PretextLoss(loss, [queries, keys])

    def after_step(self, progress: float) -> None:
        follow(self.slow_encoder, self.encoder, self.options.momentum)
        follow(self.slow_head, self.head, self.options.momentum)

    @torch.no_grad()
    def _keys(self, view: Tensor) -> Tensor:
        """Features of the copy, in parts drawn at random, each with batch statistics of its own."""
        order = torch.randperm(len(view)).to(view.device)
        parts = order.chunk(PARTS) if len(view) >= 2 * PARTS else [order]
        keys = torch.cat([self.slow_head(self.slow_encoder.features(view[part])) for part in parts])
        return keys[order.argsort()]
