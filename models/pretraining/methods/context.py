"""Context prediction."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from models.encoders import Encoder
from models.pretraining import Family, Pretext, PretextLoss
from models.pretraining.methods import methods
from models.pretraining.tiling import check_tiles, embed_parts, gap_of
from models.pretraining.views import normalised, tiles, uncoloured
from models.registry import require_within
from models.training.loop import Batch

GRID, CENTRE = 3, 4


@methods.register
@dataclass(frozen=True, kw_only=True)
class Context:
    """Tell on which of eight sides of the middle of an image another part of it lies.

    Doersch et al., 2015. https://arxiv.org/abs/1505.05192. Parts keep a gap between them, are moved
    at random and lose their colours in half of the images, so that no edge or lens tells.
    """

    family: ClassVar[Family] = "discriminative"
    fewest: ClassVar[int] = 1000
    unsuited: ClassVar[str] = "textures, and images smaller than 48 pixels"

    grey: float = 0.5  # probability to lose all colour

    def __post_init__(self) -> None:
        require_within(self, "grey", 0, 1)

    def build(self, encoder: Encoder, images: int) -> Pretext:
        check_tiles(encoder, "context", GRID)
        return _Objective(encoder, self.grey)


class _Objective(Pretext):
    chance = math.log(GRID * GRID - 1)

    def __init__(self, encoder: Encoder, grey: float) -> None:
        super().__init__(encoder)
        self.grey, width = grey, encoder.embedding_dim
        self.classifier = nn.Sequential(
            nn.Linear(2 * width, width),
            nn.ReLU(),
            nn.Linear(width, GRID * GRID - 1),
        )

    def make_views(
        self, images: Tensor, shares: Float[Tensor, "B C"], generator: Generator
    ) -> tuple[list[Tensor], Float[Tensor, "B C"]]:
        parts = tiles(images, GRID, gap=gap_of(images, GRID), generator=generator)
        return [normalised(uncoloured(parts, self.grey, generator))], shares

    def pretext_loss(self, batch: Batch) -> PretextLoss:
        (parts,) = batch.views  # (B, 9, 3, T, T)
        side = torch.randint(GRID * GRID - 1, (len(parts),)).to(parts.device)
        cell = side + (side >= CENTRE)
        pair = torch.stack([parts[:, CENTRE], parts[torch.arange(len(parts)), cell]], dim=1)
        features = embed_parts(self.encoder, pair)  # (B, 2, D)
        loss = F.cross_entropy(self.classifier(features.flatten(1)), side)
        return PretextLoss(loss, [features[:, 0]])
