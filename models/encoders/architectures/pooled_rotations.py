"""Another encoder that does not care which way is up."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.encoders import Encoder
from models.encoders.architectures import architectures
from models.encoders.specs import parse

TURNS = 4  # of 90 degrees


@architectures.register
@dataclass(frozen=True, kw_only=True)
class PooledRotations:
    """The mean of what an encoder sees in the four quarter turns of an image.

    Invariant under the group p4, at four times the cost; for images without an upright position,
    such as those of microscopes, satellites and parts on a belt. Cohen & Welling, 2016, build the
    same group into every convolution. https://arxiv.org/abs/1602.07576
    """

    base: str = "conv4:64"

    def __post_init__(self) -> None:
        if self.base.partition(":")[0] == "pooled_rotations":
            raise ValueError("the rotations of rotations are the same rotations: name the base")
        parse(self.base)

    def build(self, *, pretrained: bool = True) -> Encoder:
        base = parse(self.base)[1].build(pretrained=pretrained)
        return Encoder(
            [_Turned(base.stages[0]), *base.stages[1:], _Mean()],
            embedding_dim=base.embedding_dim,
            preprocessing=base.preprocessing,
        )


class _Turned(nn.Module):
    """A stage that gets all turns of each image."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, images: Tensor) -> Tensor:
        turned = torch.cat([images.rot90(turn, dims=(2, 3)) for turn in range(TURNS)])
        features: Tensor = self.stage(turned)
        return features


class _Mean(nn.Module):
    """The mean over the turns of an image."""

    def forward(self, features: Tensor) -> Tensor:
        count = len(features) // TURNS
        return features.reshape(TURNS, count, -1).mean(dim=0)
