"""A small vision transformer, for images of its own size."""

from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer

from models.encoders import Encoder, architectures
from models.images import Preprocessing
from models.stages import split


@architectures.register
@dataclass(frozen=True, kw_only=True)
class ViT:
    """A vision transformer with seeded random weights; its tokens are averaged.

    Dosovitskiy et al., 2021. https://arxiv.org/abs/2010.11929
    """

    width: int = 192  # features of a token
    image_side: int = 64  # pixels
    patch: int = 8  # pixels
    depth: int = 6  # blocks
    heads: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if not (1 <= self.width <= 768 and 16 <= self.image_side <= 2048):
            raise ValueError("width must be 1..768 and image_side 16..2048")
        if not 1 <= self.depth <= 12:
            raise ValueError(f"depth must be from 1 to 12, got {self.depth}")
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, got {self.width}, {self.heads}")
        if self.patch < 1 or self.image_side % self.patch:
            raise ValueError(
                f"image_side must be a multiple of patch, got {self.image_side}, {self.patch}"
            )

    def build(self, *, pretrained: bool = True) -> Encoder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            net = VisionTransformer(
                img_size=self.image_side,
                patch_size=self.patch,
                embed_dim=self.width,
                depth=self.depth,
                num_heads=self.heads,
                num_classes=0,
                global_pool="avg",
                fc_norm=False,
            ).eval()
        stages, dim = split(net, self.image_side)
        return Encoder(
            stages,
            embedding_dim=dim,
            preprocessing=Preprocessing(
                resize=self.image_side,
                crop=self.image_side,
                mean=(0.5, 0.5, 0.5),
                std=(0.5, 0.5, 0.5),
            ),
        )
