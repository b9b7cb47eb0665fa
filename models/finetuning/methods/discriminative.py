"""Discriminative fine-tuning: deeper layers learn faster."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import nn

from models.encoders import Encoder, is_transformer
from models.finetuning import FinetuningMethod, learning_copy
from models.finetuning.lora import adapt
from models.finetuning.methods import methods
from models.registry import require_within
from models.training.loop import ParameterGroup, split_decay

FEW_SHOTS = 20  # below, layers are unfrozen one after the other


UNFROZEN = 0.5  # share of the training at which the last layer joins


COMPARED = (1.0, 0.9, 0.75)  # decays of which cross-validation chooses one


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

    # Of the rate, from a stage to the one before it; family: as above; auto: by cross-validation.
    decay: float | Literal["family", "auto"] = "family"
    lowest: float = 0.0  # rate of the first stage as a share of the last's, instead of a decay
    unfreezing: Literal["gradual", "at_once", "auto"] = "auto"  # auto: gradual below 20 shots
    lora_rank: int = 0  # of what a transformer's linear layers learn; 0: whole weights

    def __post_init__(self) -> None:
        if not isinstance(self.decay, str):
            require_within(self, "decay", 0, 1, exclusive=True)
        require_within(self, "lowest", 0, 1)
        require_within(self, "lora_rank", 0, 256)

    def variants(self, encoder: Encoder) -> Sequence[FinetuningMethod]:
        if self.decay != "auto":
            return [self]
        return [replace(self, decay=decay) for decay in COMPARED]

    def prepare(self, encoder: Encoder) -> Encoder:
        """A copy that can learn.

        Raises:
            ValueError: low rank is asked of a network that is no transformer.
        """
        learner = learning_copy(encoder)
        if self.lora_rank:
            if not is_transformer(encoder):
                raise ValueError("lora_rank is for transformers, which this encoder is not: use 0")
            adapt(learner, self.lora_rank)
        return learner

    def groups(self, encoder: Encoder, shots: int) -> list[ParameterGroup]:
        learning = [
            stage for stage in encoder.stages if any(p.requires_grad for p in stage.parameters())
        ]
        last = len(learning) - 1
        gradual = self.unfreezing == "gradual" or (self.unfreezing == "auto" and shots < FEW_SHOTS)
        decay = self._decay(encoder, last)
        return [
            group._replace(starts=UNFROZEN * (last - depth) / max(1, last) if gradual else 0.0)
            for depth, stage in enumerate(learning)
            for group in split_decay(f"stage-{depth}", stage, decay ** (last - depth))
        ]

    def _decay(self, encoder: Encoder, last: int) -> float:
        if self.lowest:
            return float(self.lowest ** (1 / max(1, last)))
        return family_decay(encoder) if isinstance(self.decay, str) else self.decay


def family_decay(encoder: Encoder) -> float:
    """The decay that suits a family of networks: see `Discriminative`."""
    if is_transformer(encoder):
        return 0.7
    norms_layers = any(isinstance(module, nn.LayerNorm) for module in encoder.modules())
    return 0.75 if norms_layers else 0.95
