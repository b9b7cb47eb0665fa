"""Images of which an encoder sees parts only, and what paints the rest."""

import copy
import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.encoders import Encoder
from models.encoders.stages import Tokens

GRID = 8  # patches on a side, of which a convolutional encoder has some hidden


def shuffled(
    tokens: Float[Tensor, "B L D"], keep: float
) -> tuple[Float[Tensor, "B K D"], Int[Tensor, "B L"]]:
    """A share of the tokens of each image, drawn at random, and the rank of each token.

    Those of the lowest ranks are kept, in that order.
    """
    ranks = torch.rand(tokens.shape[:2]).argsort(dim=1).argsort(dim=1).to(tokens.device)
    count = max(1, round(keep * tokens.shape[1]))
    first = ranks.argsort(dim=1)[:, :count]
    return tokens.gather(1, first.unsqueeze(2).expand(-1, -1, tokens.shape[2])), ranks


def patches(images: Float[Tensor, "B 3 S S"], count: int) -> Float[Tensor, "B L X"]:
    """The pixels of each of a square number of patches, with mean 0 and deviation 1.

    He et al., 2022, section 4. https://arxiv.org/abs/2111.06377
    """
    grid = math.isqrt(count)
    side = images.shape[-1] // grid
    pixels = nn.functional.unfold(images, side, stride=side).mT  # (B, L, 3 side side)
    mean, variance = pixels.mean(dim=2, keepdim=True), pixels.var(dim=2, keepdim=True)
    return (pixels - mean) / (variance + 1e-6).sqrt()


def reveal(
    images: Float[Tensor, "B 3 S S"], painted: Float[Tensor, "B L X"], hidden: Bool[Tensor, "B L"]
) -> Float[Tensor, "B 3 S S"]:
    """Images with what was painted in place of hidden patches, in the light of the true ones.

    Args:
        painted: pixels with mean 0 and deviation 1, as `patches` gives them.
    """
    side = images.shape[-1] // math.isqrt(painted.shape[1])
    pixels = nn.functional.unfold(images, side, stride=side).mT  # (B, L, 3 side side)
    mean, variance = pixels.mean(dim=2, keepdim=True), pixels.var(dim=2, keepdim=True)
    lit = painted * (variance + 1e-6).sqrt() + mean
    revealed = torch.where(hidden.unsqueeze(2), lit, pixels)
    return nn.functional.fold(revealed.mT, images.shape[-2:], side, stride=side)


def hide(
    images: Float[Tensor, "B 3 S S"], hidden: Bool[Tensor, "B L"], instead: Tensor
) -> Float[Tensor, "B 3 S S"]:
    """Images with other values in some of a square number of patches.

    Args:
        instead: those values, (3, 1, 1).
    """
    grid = math.isqrt(hidden.shape[1])
    side = images.shape[-1] // grid
    mask = hidden.view(-1, 1, grid, grid)
    mask = mask.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)
    return torch.where(mask, instead, images)


def is_masked_by_tokens(encoder: Encoder) -> bool:
    """Whether patches can be left out as tokens."""
    return isinstance(encoder.stages[0], Tokens)


class Painted(NamedTuple):
    """What was made of images of which some patches were hidden."""

    pixels: Float[Tensor, "B L X"]
    hidden: Bool[Tensor, "B L"]
    features: Float[Tensor, "B D"]  # the mean of what the encoder made of what it saw


class TokenPainter(nn.Module):
    """A small transformer that paints all patches from the tokens of those that were seen."""

    positions: Tensor

    def __init__(self, encoder: Encoder, mask: float, width: int, depth: int) -> None:
        from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
        from timm.models.vision_transformer import Block

        super().__init__()
        net: Any = encoder.stages[0].net
        height, breadth = net.patch_embed.patch_size
        self.mask, self.prefix, self.side = mask, net.num_prefix_tokens, encoder.preprocessing.crop
        self.enter = nn.Linear(encoder.embedding_dim, width)
        self.hidden = nn.Parameter(0.02 * torch.randn(width))
        positions = build_sincos2d_pos_embed(list(net.patch_embed.grid_size), dim=width)
        self.register_buffer("positions", positions)
        self.blocks = nn.Sequential(*(Block(width, max(1, width // 32)) for _ in range(depth)))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3 * height * breadth))

    def forward(self, encoder: Encoder, images: Float[Tensor, "B 3 S S"]) -> Painted:
        """Paint what a share of the tokens does not show."""
        tokens: Tensor = encoder.stages[0](encoder.normalised(images))
        prefix, tokens = tokens[:, : self.prefix], tokens[:, self.prefix :]
        visible, ranks = shuffled(tokens, 1 - self.mask)
        features = torch.cat([prefix, visible], dim=1)
        for stage in encoder.stages[1:-1]:
            features = stage(features)
        norm: Any = encoder.stages[-1].net
        features = norm.norm(features) if isinstance(norm.norm, nn.Module) else features
        pixels = self._paint(self.enter(features), ranks)
        return Painted(pixels, ranks >= visible.shape[1], features[:, self.prefix :].mean(dim=1))

    def _paint(
        self, entered: Float[Tensor, "B F D"], ranks: Int[Tensor, "B L"]
    ) -> Float[Tensor, "B L X"]:
        prefix, visible = entered[:, : self.prefix], entered[:, self.prefix :]
        masked = self.hidden.expand(len(visible), ranks.shape[1] - visible.shape[1], -1)
        ordered = torch.cat([visible, masked.to(visible.dtype)], dim=1)
        tokens = ordered.gather(1, ranks.unsqueeze(2).expand(-1, -1, ordered.shape[2]))
        tokens = torch.cat([prefix, tokens + self.positions], dim=1)
        painted: Tensor = self.leave(self.blocks(tokens)[:, self.prefix :])
        return painted


class PixelPainter(nn.Module):
    """A linear layer that paints patches from what an encoder makes of the others.

    The encoder sees a learned value where patches are hidden.
    """

    def __init__(self, encoder: Encoder, mask: float) -> None:
        super().__init__()
        patch = encoder.preprocessing.crop // GRID
        self.mask, self.side = mask, GRID * patch
        self.hidden = nn.Parameter(torch.zeros(3, 1, 1))
        nothing = torch.zeros(1, 3, self.side, self.side, device=encoder.mean.device)
        with torch.no_grad():
            channels = _map(copy.deepcopy(encoder).eval(), nothing).shape[1]
        self.leave = nn.Conv2d(channels, 3 * patch * patch, 1)

    def forward(self, encoder: Encoder, images: Float[Tensor, "B 3 S S"]) -> Painted:
        """Paint a share of the patches, which the encoder does not see."""
        ranks = shuffled(images.new_zeros(len(images), GRID * GRID, 1), 1 - self.mask)[1]
        hidden = ranks >= round((1 - self.mask) * GRID * GRID)
        features = _map(encoder, hide(encoder.normalised(images), hidden, self.hidden))
        painted = self.leave(nn.functional.adaptive_avg_pool2d(features, GRID))
        return Painted(painted.flatten(2).mT, hidden, features.mean(dim=(2, 3)))


def _map(encoder: Encoder, features: Tensor) -> Tensor:
    """What an encoder makes of images before it pools over them."""
    for stage in encoder.stages[:-1]:
        features = stage(features)
    return features
