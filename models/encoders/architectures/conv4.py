"""Four convolution blocks: small enough for tests and for tiny images."""

from dataclasses import dataclass

import torch
from torch import nn

from models.encoders import Encoder
from models.encoders.architectures import architectures
from models.images import Preprocessing
from models.registry import require_within


@architectures.register
@dataclass(frozen=True, kw_only=True)
class Conv4:
    """Conv-4, the usual small backbone of few-shot papers, with seeded random weights.

    Vinyals et al., 2016. https://arxiv.org/abs/1606.04080
    """

    width: int = 64  # channels
    image_side: int = 84  # pixels
    seed: int = 0

    def __post_init__(self) -> None:
        require_within(self, "width", 1, 1024)
        require_within(self, "image_side", 16, 2048)

    def build(self, *, pretrained: bool = True) -> Encoder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            blocks = [_block(3 if i == 0 else self.width, self.width) for i in range(4)]
        return Encoder(
            [*blocks, nn.AdaptiveAvgPool2d(1)],
            embedding_dim=self.width,
            preprocessing=Preprocessing(
                resize=self.image_side,
                crop=self.image_side,
                mean=(0.485, 0.456, 0.406),
                std=(0.229, 0.224, 0.225),
            ),
        )


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
