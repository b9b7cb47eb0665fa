"""Rotation."""

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
from models.training.loop import Batch

TURNS = 4  # of 90 degrees


@methods.register
@dataclass(frozen=True, kw_only=True)
class Rotation:
    """Tell by which quarter turn an image was turned; all four of each image are in the batch.

    Gidaris et al., 2018. https://arxiv.org/abs/1803.07728
    """

    family: ClassVar[Family] = "discriminative"
    fewest: ClassVar[int] = 500
    unsuited: ClassVar[str] = (
        "images without an upright position, such as those of microscopes; a transformer in "
        "little time"
    )

    flip: bool = True  # mirror half of the images

    def build(self, encoder: Encoder, images: int) -> Pretext:
        return _Objective(encoder, self)


class _Objective(Pretext):
    chance = math.log(TURNS)

    def __init__(self, encoder: Encoder, options: Rotation) -> None:
        super().__init__(encoder)
        self.options = options
        self.classifier = nn.Linear(encoder.embedding_dim, TURNS)

    def make_views(
        self, images: Tensor, shares: Float[Tensor, "B C"], generator: Generator
    ) -> tuple[list[Tensor], Float[Tensor, "B C"]]:
        if self.options.flip:
            mirrored = torch.rand(len(images), generator=generator) < 0.5
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
        turned = torch.cat([images.rot90(turn, dims=(2, 3)) for turn in range(TURNS)])
        return [turned], shares

    def pretext_loss(self, batch: Batch) -> PretextLoss:
        features = self.encoder.features(batch.views[0])  # (4B, D)
        turns = torch.arange(TURNS, device=features.device)
        turns = turns.repeat_interleave(len(batch.positions))
        return PretextLoss(F.cross_entropy(self.classifier(features), turns), [features])
