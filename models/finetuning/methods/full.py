"""Fine-tuning of all layers at one rate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from models.encoders import Encoder
from models.finetuning import FinetuningMethod, learning_copy
from models.finetuning.methods import methods
from models.training.loop import ParameterGroup, split_decay


@methods.register
@dataclass(frozen=True, kw_only=True)
class Full:
    """Every layer learns, all at the same rate (Girshick et al., 2014).

    https://arxiv.org/abs/1311.2524
    """

    frozen: ClassVar[bool] = False

    def variants(self, encoder: Encoder) -> Sequence[FinetuningMethod]:
        return [self]

    def prepare(self, encoder: Encoder) -> Encoder:
        return learning_copy(encoder)

    def groups(self, encoder: Encoder, shots: int) -> list[ParameterGroup]:
        return split_decay("encoder", encoder, 1.0)
