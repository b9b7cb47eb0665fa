"""NPID: instance discrimination."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Generator, Tensor, nn

from models.encoders import Encoder
from models.pretraining import Family, Pretext, PretextLoss
from models.pretraining.contrastive import MemoryContrast, MemoryOptions
from models.pretraining.layers import Bank
from models.pretraining.methods import methods
from models.training.loop import Batch


@methods.register
@dataclass(frozen=True, kw_only=True)
class NPID(MemoryOptions):
    """Recognise an image by a memory of how it looked, among memories of others.

    Wu et al., 2018. https://arxiv.org/abs/1805.01978
    """

    family: ClassVar[Family] = "contrastive"
    fewest: ClassVar[int] = 500
    unsuited: ClassVar[str] = (
        "more images than passes over them can refresh the memory of; a transformer in little "
        "time, which it makes worse"
    )

    def build(self, encoder: Encoder, images: int) -> Pretext:
        return _Objective(encoder, self, images)


class _Objective(MemoryContrast):
    def __init__(self, encoder: Encoder, options: NPID, images: int) -> None:
        super().__init__(encoder, options)
        self.head = nn.Linear(encoder.embedding_dim, options.projection)
        self.bank = Bank(images, options.projection)

    def make_views(
        self, images: Tensor, shares: Float[Tensor, "B C"], generator: Generator
    ) -> tuple[list[Tensor], Float[Tensor, "B C"]]:
        return [self.options.views(images, generator)], shares

    def pretext_loss(self, batch: Batch) -> PretextLoss:
        queries = self.head(self.encoder.features(batch.views[0]))
        (loss,) = self.compare(batch, queries)
        return PretextLoss(loss, [queries])
