"""BYOL."""

import copy
import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from models.encoders import Encoder
from models.pretraining import Family, Joint, Pretext, PretextLoss
from models.pretraining.layers import follow, projection_head
from models.pretraining.methods import methods
from models.pretraining.views import Views
from models.registry import require_within
from models.training.loop import Batch


@methods.register
@dataclass(frozen=True, kw_only=True)
class BYOL:
    """Predict, from one view, what a slowly moving copy makes of the other; without negatives.

    Grill et al., 2020. https://arxiv.org/abs/2006.07733
    """

    family: ClassVar[Family] = "contrastive"
    fewest: ClassVar[int] = 500
    unsuited: ClassVar[str] = (
        "batches below 32, since its batch norms are what keeps it from collapsing; a transformer "
        "in little time"
    )

    momentum: float = 0.99  # of the copy at the start; rises to 1. The paper's 0.996 is for longer
    projection: int = 256  # features that are predicted
    hidden: int = 1024
    views: Views = field(default_factory=Views)
    solarize: float = 0.2  # probability, in the second view

    def __post_init__(self) -> None:
        require_within(self, "momentum", 0, 1)
        require_within(self, "projection", 1, 2048)
        require_within(self, "hidden", 1, 4096)
        require_within(self, "solarize", 0, 1)

    def build(self, encoder: Encoder, images: int) -> Pretext:
        return _Objective(encoder, self)


class _Objective(Joint):
    chance = 2.0  # of directions that have nothing to do with each other

    def __init__(self, encoder: Encoder, options: BYOL) -> None:
        super().__init__(encoder, options.views, replace(options.views, solarize=options.solarize))
        self.momentum, sizes = options.momentum, (options.hidden, options.projection)
        self.head = projection_head(encoder.embedding_dim, *sizes)
        self.predictor = projection_head(options.projection, *sizes)
        self.slow_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.slow_head = copy.deepcopy(self.head).requires_grad_(False)

    def pretext_loss(self, batch: Batch) -> PretextLoss:
        projected = [self.head(self.encoder.features(view)) for view in batch.views]
        targets = self._targets(batch.views)
        losses = [
            2 - 2 * F.cosine_similarity(self.predictor(projection), target).mean()  # equation 2
            for projection, target in zip(projected, reversed(targets), strict=True)
        ]
        return PretextLoss((losses[0] + losses[1]) / 2, projected)

    def after_step(self, progress: float) -> None:
        # Rises from `momentum` to 1 along a cosine (appendix J).
        momentum = 1 - (1 - self.momentum) * (1 + math.cos(math.pi * progress)) / 2
        follow(self.slow_encoder, self.encoder, momentum)
        follow(self.slow_head, self.head, momentum)

    @torch.no_grad()
    def _targets(self, views: list[Tensor]) -> list[Tensor]:
        return [self.slow_head(self.slow_encoder.features(view)) for view in views]
