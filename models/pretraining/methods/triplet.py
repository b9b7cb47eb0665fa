"""Triplets."""

from dataclasses import dataclass, field
from typing import ClassVar

from models.encoders import Encoder
from models.pretraining import Family, Joint, Pretext, PretextLoss
from models.pretraining.layers import projection_head
from models.pretraining.losses import Contrast, swapped
from models.pretraining.methods import methods
from models.pretraining.views import Views
from models.registry import require_within
from models.training.loop import Batch


@methods.register
@dataclass(frozen=True, kw_only=True)
class Triplet:
    """Bring views of an image nearer to each other than to other images, by a margin.

    Wang & Gupta, 2015, with views instead of tracked patches, and with semi-hard negatives, without
    which all images come to look alike. https://arxiv.org/abs/1505.00687
    """

    family: ClassVar[Family] = "contrastive"
    fewest: ClassVar[int] = 500
    unsuited: ClassVar[str] = (
        "many images that are nearly alike, since those near by teach nonsense; a transformer in "
        "little time"
    )

    projection: int = 128  # features that are compared
    contrast: Contrast = field(default_factory=lambda: Contrast(loss="triplet"))
    views: Views = field(default_factory=Views)

    def __post_init__(self) -> None:
        require_within(self, "projection", 1, 2048)

    def build(self, encoder: Encoder, images: int) -> Pretext:
        return _Objective(encoder, self)


class _Objective(Joint):
    def __init__(self, encoder: Encoder, options: Triplet) -> None:
        super().__init__(encoder, options.views)
        self.options, width = options, encoder.embedding_dim
        self.head = projection_head(width, width, options.projection)

    def pretext_loss(self, batch: Batch) -> PretextLoss:
        first, second = (self.head(self.encoder.features(view)) for view in batch.views)
        self.chance = self.options.contrast.chance(2 * len(first) - 2)
        return PretextLoss(swapped(self.options.contrast, first, second), [first, second])
