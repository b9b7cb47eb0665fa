"""A small vision transformer, for images of its own size."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from models.encoders import Encoder
from models.encoders.architectures import architectures
from models.encoders.stages import split
from models.images import Preprocessing
from models.registry import require_within

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


@architectures.register
@dataclass(frozen=True, kw_only=True)
class ViT:
    """A vision transformer with seeded random weights; its tokens are averaged.

    Dosovitskiy et al., 2021. https://arxiv.org/abs/2010.11929 Weights start as in MAE (He et al.,
    2022, appendix A), and positions as sines and cosines, which already say what is near what; of
    other starts little can be learned from a few thousand images.
    https://arxiv.org/abs/2111.06377
    """

    width: int = 192  # features of a token
    image_side: int = 64  # pixels
    patch: int = 8  # pixels
    depth: int = 6  # blocks
    heads: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        require_within(self, "width", 1, 768)
        require_within(self, "image_side", 16, 2048)
        require_within(self, "depth", 1, 12)
        if self.width % 4:
            raise ValueError(f"width must be a multiple of 4, got {self.width}")
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, got {self.width}, {self.heads}")
        if self.patch < 1 or self.image_side % self.patch:
            raise ValueError(
                f"image_side must be a multiple of patch, got {self.image_side}, {self.patch}"
            )

    def build(self, *, pretrained: bool = True) -> Encoder:
        from timm.models.vision_transformer import VisionTransformer

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
                weight_init="moco",
            ).eval()
            _start_as_mae(net)
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


@torch.no_grad()
def _start_as_mae(net: "VisionTransformer") -> None:
    """Set what the start of MoCo v3, which is otherwise that of MAE, leaves to timm."""
    from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed

    filters = net.patch_embed.proj.weight
    nn.init.xavier_uniform_(filters.view(len(filters), -1))
    positions = build_sincos2d_pos_embed(list(net.patch_embed.grid_size), dim=net.embed_dim)
    assert net.pos_embed is not None
    net.pos_embed[0, net.num_prefix_tokens :] = positions
