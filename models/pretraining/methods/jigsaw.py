"""Jigsaw puzzles."""

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from models.encoders import Encoder
from models.pretraining import Family, Pretext, PretextLoss
from models.pretraining.methods import methods
from models.pretraining.tiling import check_tiles, embed_parts, gap_of
from models.pretraining.views import normalised, tiles, uncoloured
from models.registry import require_within
from models.training.loop import Batch


@methods.register
@dataclass(frozen=True, kw_only=True)
class Jigsaw:
    """Tell in which order the tiles of an image were laid.

    Noroozi & Favaro, 2016. https://arxiv.org/abs/1603.09246
    """

    family: ClassVar[Family] = "discriminative"
    fewest: ClassVar[int] = 1000
    unsuited: ClassVar[str] = "textures, and images smaller than 32 pixels"

    grid: Literal[0, 2, 3] = 0  # tiles on a side; 0: as suits the size of the images
    permutations: int = (
        24  # more were no better (Goyal et al., 2019, https://arxiv.org/abs/1905.01235)
    )
    grey: float = 0.66  # probability to lose all colour

    def __post_init__(self) -> None:
        require_within(self, "permutations", 2, 2000)
        require_within(self, "grey", 0, 1)

    def build(self, encoder: Encoder, images: int) -> Pretext:
        return _Objective(encoder, self, check_tiles(encoder, "jigsaw", self.grid))


class _Objective(Pretext):
    orders: Tensor

    def __init__(self, encoder: Encoder, options: Jigsaw, grid: int) -> None:
        super().__init__(encoder)
        self.grey, self.grid, parts = options.grey, grid, grid * grid
        self.register_buffer("orders", most_different(parts, options.permutations))
        self.chance = math.log(len(self.orders))
        self.classifier = nn.Linear(parts * encoder.embedding_dim, len(self.orders))

    def make_views(
        self, images: Tensor, shares: Float[Tensor, "B C"], generator: Generator
    ) -> tuple[list[Tensor], Float[Tensor, "B C"]]:
        parts = tiles(images, self.grid, gap=gap_of(images, self.grid), generator=generator)
        return [normalised(uncoloured(parts, self.grey, generator))], shares

    def pretext_loss(self, batch: Batch) -> PretextLoss:
        (parts,) = batch.views  # (B, L, 3, T, T)
        order = torch.randint(len(self.orders), (len(parts),)).to(parts.device)
        laid = parts[torch.arange(len(parts)).unsqueeze(1), self.orders[order]]
        features = embed_parts(self.encoder, laid)  # (B, L, D)
        loss = F.cross_entropy(self.classifier(features.flatten(1)), order)
        return PretextLoss(loss, [features[:, 0]])


def most_different(parts: int, count: int) -> Int[Tensor, "J L"]:
    """At most `count` permutations, one after the other the farthest from those before.

    By their Hamming distance (paper, algorithm 1); of nine parts among 5,000 drawn at random.
    """
    everything = torch.tensor(list(itertools.permutations(range(parts))))
    sample = torch.randperm(len(everything), generator=Generator().manual_seed(0))[:5000]
    pool = everything[sample]
    selected = [0]
    distance = (pool != pool[0]).sum(dim=1)
    while len(selected) < min(count, len(pool)):
        farthest = int(distance.argmax())
        selected.append(farthest)
        distance = torch.minimum(distance, (pool != pool[farthest]).sum(dim=1))
    return pool[selected]
