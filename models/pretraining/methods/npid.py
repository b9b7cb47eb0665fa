"""NPID: instance discrimination."""

from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Float
from torch import Generator, Tensor, nn

from models.encoders import Encoder
from models.pretraining import Family, Pretext, PretextLoss
from models.pretraining.layers import Bank
from models.pretraining.losses import Contrast
from models.pretraining.methods import methods
from models.pretraining.views import Views
from models.registry import require_within
from models.training.loop import Batch


@methods.register
@dataclass(frozen=True, kw_only=True)
class NPID:
    """Recognise an image by a memory of how it looked, among memories of others.

    Wu et al., 2018. https://arxiv.org/abs/1805.01978
    """

    family: ClassVar[Family] = "contrastive"
    fewest: ClassVar[int] = 500
    unsuited: ClassVar[str] = (
        "more images than passes over them can refresh the memory of; a transformer in little "
        "time, which it makes worse"
    )

    momentum: float = 0.5  # of the memory
    negatives: int = 4096  # memories of others; at most one of each
    projection: int = 128  # features that are compared
    contrast: Contrast = field(default_factory=lambda: Contrast(temperature=0.07))
    views: Views = field(default_factory=Views)

    def __post_init__(self) -> None:
        require_within(self, "momentum", 0, 1)
        require_within(self, "negatives", 1, 1_000_000)
        require_within(self, "projection", 1, 2048)

    def build(self, encoder: Encoder, images: int) -> Pretext:
        return _Objective(encoder, self, images)


class _Objective(Pretext):
    def __init__(self, encoder: Encoder, options: NPID, images: int) -> None:
        super().__init__(encoder)
        self.options = options
        self.head = nn.Linear(encoder.embedding_dim, options.projection)
        self.bank = Bank(images, options.projection)

    def make_views(
        self, images: Tensor, shares: Float[Tensor, "B C"], generator: Generator
    ) -> tuple[list[Tensor], Float[Tensor, "B C"]]:
        return [self.options.views(images, generator)], shares

    def pretext_loss(self, batch: Batch) -> PretextLoss:
        queries = self.head(self.encoder.features(batch.views[0]))
        remembered = self.bank.features[batch.positions.to(queries.device)]
        negatives, is_own = self.bank.negatives(batch.positions, self.options.negatives)
        loss = self.options.contrast(queries, remembered, negatives, is_own)
        self.chance = self.options.contrast.chance(len(negatives))
        if self.training:
            self.bank.move(batch.positions, queries.detach(), self.options.momentum)
        return PretextLoss(loss, [queries])
