"""Matching networks."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from models.encoders import Encoder
from models.metalearning import Episodic
from models.metalearning.learners import learners

SCALE = 10.0  # of cosines, at the start


FLOOR = 1e-6  # of a probability, in the loss


@learners.register
@dataclass(frozen=True, kw_only=True)
class Matching:
    """Let each shot vote for its label, by attention over all shots.

    Vinyals et al., 2016, equation 1, without the embeddings of a shot that depend on the order of
    others. https://arxiv.org/abs/1606.04080 The softmax of cosines has a scale that is learned. The
    head `knn` serves much the same.
    """

    fewest_labels: ClassVar[int] = 20
    unsuited: ClassVar[str] = "many shots, which all vote; labels of which single images mislead"

    def build(self, encoder: Encoder, *, fresh: bool) -> Episodic:
        return _Objective(encoder, fresh=fresh)


class _Objective(Episodic):
    def __init__(self, encoder: Encoder, *, fresh: bool) -> None:
        super().__init__(encoder, fresh=fresh)
        self.log_scale = nn.Parameter(torch.tensor(math.log(SCALE)))

    def prepare(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        return self.in_parts(self.encoder, images)

    def logits(
        self, support: Float[Tensor, "C K D"], query: Float[Tensor, "Q D"]
    ) -> Float[Tensor, "Q C"]:
        """The log of the summed attention of each label; its softmax is that sum."""
        cosines = query @ F.normalize(support.flatten(0, 1), dim=1).T
        attention = (self.log_scale.exp() * cosines.float()).softmax(dim=1)
        votes = attention.view(len(query), *support.shape[:2]).sum(dim=2)
        logits: Tensor = votes.clamp_min(FLOOR).log()
        return logits
