"""A linear layer on the embeddings of an encoder."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from models.encoders import Encoder


class Projection(nn.Module):
    """A linear layer that starts as the identity, so that weight decay pulls it there."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.difference = nn.Parameter(torch.zeros(dim, dim))

    def forward(self, features: Tensor) -> Float[Tensor, "B D"]:
        embeddings = F.normalize(features.flatten(1), dim=1)
        return embeddings + embeddings @ self.difference.T


def project(encoder: Encoder) -> Encoder:
    """The encoder with a projection as its last stage, which changes nothing yet."""
    if isinstance(encoder.stages[-1], Projection):
        return encoder
    projected = Encoder(
        [*encoder.stages, Projection(encoder.embedding_dim)],
        embedding_dim=encoder.embedding_dim,
        preprocessing=encoder.preprocessing,
    )
    return projected.to(encoder.mean.device).eval()
