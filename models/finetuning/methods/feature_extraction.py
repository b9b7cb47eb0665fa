"""Feature extraction: the encoder is frozen, a projection of its features learns."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from models.encoders import Encoder
from models.encoders.projection import project
from models.finetuning import FinetuningMethod
from models.finetuning.methods import methods
from models.training.loop import ParameterGroup, split_decay


@methods.register
@dataclass(frozen=True, kw_only=True)
class FeatureExtraction:
    """Only the last stage, a projection that starts as the identity, learns.

    Features off the shelf: Razavian et al., 2014. https://arxiv.org/abs/1403.6382
    """

    frozen: ClassVar[bool] = True

    def variants(self, encoder: Encoder) -> Sequence[FinetuningMethod]:
        return [self]

    def prepare(self, encoder: Encoder) -> Encoder:
        return project(copy.deepcopy(encoder).requires_grad_(False))

    def groups(self, encoder: Encoder, shots: int) -> list[ParameterGroup]:
        return split_decay("projection", encoder.stages[-1].requires_grad_(True), 1.0)
