"""Triplets."""

from dataclasses import dataclass, field
from typing import ClassVar

from models.encoders import Encoder
from models.pretraining import Family, Pretext
from models.pretraining.contrastive import BatchContrast
from models.pretraining.losses import Contrast
from models.pretraining.methods import methods
from models.pretraining.views import Views
from models.registry import require_within


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
        return BatchContrast(encoder, self.views, self.contrast, self.projection)
