"""Small encoders, and a runtime that a test can make late or wrong."""

from typing import ClassVar

import torch

from models.encoders import Architecture, Encoder
from models.encoders.architectures.conv4 import Conv4
from models.encoders.architectures.timm import Timm
from models.encoders.architectures.vit import ViT
from models.runtimes import Embed, Resources, RuntimeUnavailable

BATCH_S = 0.1  # that a batch takes, of any size
RESOURCES = Resources(threads=1, batch=4)
ENCODERS: dict[str, Architecture] = {
    "conv4": Conv4(width=8, image_side=32),
    "resnet": Timm(model="test_resnet"),  # a block of each kind
    "vit": ViT(width=24, image_side=16, patch=4, depth=2, heads=2),
}


def make_encoder(name: str = "conv4") -> Encoder:
    torch.manual_seed(0)
    return ENCODERS[name].build(pretrained=False).eval()


class Clock:
    """A time that passes only while something embeds, so that no other work is in what it says."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Reference:
    """As PyTorch computes, a batch in a tenth of a second, perhaps later or wrong."""

    clock: ClassVar[Clock]
    late_s = 0.0
    wrong = False
    wrong_in_streams = False
    lost = False
    refuses = False
    in_caller = True
    prepared: list[Encoder]

    def prepare(self, encoder: Encoder, resources: Resources) -> Embed:
        self.prepared.append(encoder)
        if self.refuses:
            raise RuntimeUnavailable("it is out of order")

        def embed(pixels: torch.Tensor) -> torch.Tensor:
            self.clock.now += BATCH_S + self.late_s
            embeddings = encoder.embed(pixels)
            if self.lost:
                return embeddings * torch.nan
            wrong = self.wrong or (self.wrong_in_streams and resources.streams > 1)
            return embeddings.roll(1, dims=1) if wrong else embeddings

        return embed


def variant(clock: Clock, name: str = "late", **options: object) -> type[Reference]:
    """The reference with other options, and nothing prepared yet."""
    return type(name, (Reference,), {"clock": clock, "prepared": [], **options})
