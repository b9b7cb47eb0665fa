"""SimCLR."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from models.encoders import Encoder
from models.pretraining import Family, Pretext
from models.pretraining.contrastive import BatchContrast
from models.pretraining.losses import Contrast
from models.pretraining.methods import methods
from models.pretraining.views import Views
from models.registry import require_within


@methods.register
@dataclass(frozen=True, kw_only=True)
class SimCLR:
    """Recognise a view of an image among views of all others in the batch.

    Chen et al., 2020. https://arxiv.org/abs/2002.05709; the second version has a deeper head
    (https://arxiv.org/abs/2006.10029).
    """

    family: ClassVar[Family] = "contrastive"
    fewest: ClassVar[int] = 500
    unsuited: ClassVar[str] = (
        "batches below 64, since there are as few negatives; a transformer in little time"
    )

    version: Literal[1, 2] = 1
    projection: int = 128  # features that are compared
    contrast: Contrast = field(default_factory=Contrast)
    views: Views = field(default_factory=Views)

    def __post_init__(self) -> None:
        require_within(self, "projection", 1, 2048)

    def build(self, encoder: Encoder, images: int) -> Pretext:
        return BatchContrast(
            encoder, self.views, self.contrast, self.projection, layers=self.version + 1
        )
