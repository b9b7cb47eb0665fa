"""PIRL."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from models.encoders import Encoder
from models.pretraining import Family, Pretext, PretextLoss
from models.pretraining.contrastive import MemoryContrast, MemoryOptions
from models.pretraining.layers import Bank
from models.pretraining.methods import methods
from models.pretraining.tiling import check_tiles, embed_parts, gap_of
from models.pretraining.views import tiles
from models.registry import require_within
from models.training.loop import Batch


@methods.register
@dataclass(frozen=True, kw_only=True)
class PIRL(MemoryOptions):
    """Recognise an image, and its shuffled tiles, by a memory of how it looked.

    Misra & van der Maaten, 2020. https://arxiv.org/abs/1912.01991
    """

    family: ClassVar[Family] = "contrastive"
    fewest: ClassVar[int] = 1000
    unsuited: ClassVar[str] = "textures, and images smaller than 32 pixels"

    grid: Literal[0, 2, 3] = 0  # tiles on a side; 0: as suits the size of the images
    share: float = 0.5  # of the loss that is that of the tiles (lambda, equation 5)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_within(self, "share", 0, 1)

    def build(self, encoder: Encoder, images: int) -> Pretext:
        return _Objective(encoder, self, images, check_tiles(encoder, "pirl", self.grid))


class _Objective(MemoryContrast):
    def __init__(self, encoder: Encoder, options: PIRL, images: int, grid: int) -> None:
        super().__init__(encoder, options)
        self.share, self.grid, size = options.share, grid, options.projection
        self.whole = nn.Linear(encoder.embedding_dim, size)
        self.part = nn.Linear(encoder.embedding_dim, size)
        self.parts = nn.Linear(grid * grid * size, size)
        self.bank = Bank(images, size)

    def make_views(
        self, images: Tensor, shares: Float[Tensor, "B C"], generator: Generator
    ) -> tuple[list[Tensor], Float[Tensor, "B C"]]:
        whole, source = (self.options.views(images, generator) for _ in range(2))
        parts = tiles(source, self.grid, gap=gap_of(images, self.grid), generator=generator)
        order = torch.rand(parts.shape[:2], generator=generator).argsort(dim=1)
        return [whole, parts[torch.arange(len(parts)).unsqueeze(1), order]], shares

    def pretext_loss(self, batch: Batch) -> PretextLoss:
        whole, tiled = batch.views
        image = self.whole(self.encoder.features(whole))
        parts = self.parts(self.part(embed_parts(self.encoder, tiled)).flatten(1))
        of_image, of_parts = self.compare(batch, image, parts)
        loss = self.share * of_parts + (1 - self.share) * of_image
        return PretextLoss(loss, [image, parts])
