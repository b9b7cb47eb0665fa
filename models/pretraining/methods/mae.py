"""MAE: masked autoencoder."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional as F

from models.encoders import Encoder, is_transformer
from models.pretraining import Family, Pretext, PretextLoss, Unsuited
from models.pretraining.masking import (
    PixelPainter,
    TokenPainter,
    hide,
    is_masked_by_tokens,
    patches,
    reveal,
)
from models.pretraining.methods import methods
from models.pretraining.views import Views
from models.registry import require_within
from models.training.loop import Batch


@methods.register
@dataclass(frozen=True, kw_only=True)
class MAE:
    """Paint the parts of an image that are hidden from the encoder.

    He et al., 2022, for transformers, which see only the tokens that are left
    (https://arxiv.org/abs/2111.06377). Convolutional encoders see grey there, and a linear layer
    paints the pixels: SimMIM, Xie et al., 2022 (https://arxiv.org/abs/2111.09886).
    """

    family: ClassVar[Family] = "generative"
    fewest: ClassVar[int] = 1000
    unsuited: ClassVar[str] = (
        "small convolutional encoders, few photos in little time, and serving without fine-tuning: "
        "its features tell classes apart after it"
    )

    mask: float = 0.75  # share of the patches that is hidden
    width: int = 96  # of the decoder
    depth: int = 1  # blocks of the decoder
    crop: float = 0.5  # least share of the area that a view shows

    def __post_init__(self) -> None:
        require_within(self, "mask", 0.05, 0.95)
        require_within(self, "width", 8, 512)
        require_within(self, "depth", 1, 8)
        require_within(self, "crop", 0.05, 1)
        if self.width % 8:
            raise ValueError(f"width must be a multiple of 8, got {self.width}")

    def build(self, encoder: Encoder, images: int) -> Pretext:
        in_one_piece = is_transformer(encoder) or len(encoder.stages) < 2
        if in_one_piece and not is_masked_by_tokens(encoder):
            raise Unsuited(
                "mae needs a plain vision transformer or a convolutional encoder that comes in "
                "stages, which this one is not: use rotation, simclr, moco, byol or swav"
            )
        return _Objective(encoder, self)


class _Objective(Pretext):
    chance = 1.0  # of patches whose pixels have a deviation of 1
    painter: TokenPainter | PixelPainter

    def __init__(self, encoder: Encoder, options: MAE) -> None:
        super().__init__(encoder)
        by_tokens = is_masked_by_tokens(encoder)
        self.painter = (
            TokenPainter(encoder, options.mask, options.width, options.depth)
            if by_tokens
            else PixelPainter(encoder, options.mask)
        )
        self.look = Views(crop=options.crop, colour=0.0, grey=0.0, blur=0.0)

    def make_views(
        self, images: Tensor, shares: Float[Tensor, "B C"], generator: Generator
    ) -> tuple[list[Tensor], Float[Tensor, "B C"]]:
        return [self.look(images, generator, self.painter.side)], shares

    def pretext_loss(self, batch: Batch) -> PretextLoss:
        painted, hidden, features = self.painter(self.encoder, batch.views[0])
        targets = patches(batch.views[0], painted.shape[1])
        return PretextLoss((painted - targets).square().mean(dim=2)[hidden].mean(), [features])

    @torch.no_grad()
    def pictures(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "K 3 T T"]:
        """Of each image itself, what is seen of it, and the same with the rest painted."""
        side = self.painter.side
        whole = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        painted, hidden, _ = self.painter(self.encoder, whole)
        visible = hide(whole, hidden, whole.new_full((3, 1, 1), 0.5))
        return torch.stack([whole, visible, reveal(whole, painted, hidden)], dim=1).flatten(0, 1)
