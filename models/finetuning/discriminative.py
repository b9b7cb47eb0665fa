"""Discriminative fine-tuning: deeper layers learn faster."""

from dataclasses import dataclass
from typing import ClassVar

from models.encoders import Encoder
from models.finetuning import learning_copy, methods, split_decay
from models.training import ParameterGroup


@methods.register
@dataclass(frozen=True, kw_only=True)
class Discriminative:
    """Every layer learns, at rates that fall towards the input (Howard & Ruder, 2018, section 3.2).

    https://arxiv.org/abs/1801.06146

    The paper divides by 2.6 from layer to layer of a language model. Between the stages of an image
    encoder 0.9 to 0.95 suits residual and mobile networks, 0.7 to 0.8 ConvNeXt, and 0.65 to 0.75
    transformers (Clark et al., 2020; Bao et al., 2022, https://arxiv.org/abs/2106.08254).
    """

    frozen: ClassVar[bool] = False

    decay: float = 0.9  # of the rate, from a stage to the one before it; 1: as `full`

    def __post_init__(self) -> None:
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must be above 0 and at most 1, got {self.decay}")

    def prepare(self, encoder: Encoder) -> Encoder:
        return learning_copy(encoder)

    def groups(self, encoder: Encoder) -> list[ParameterGroup]:
        learning = [stage for stage in encoder.stages if any(True for _ in stage.parameters())]
        last = len(learning) - 1
        return [
            group
            for depth, stage in enumerate(learning)
            for group in split_decay(f"stage-{depth}", stage, self.decay ** (last - depth))
        ]
