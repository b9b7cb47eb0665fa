"""Adaptation by steps that the encoder has learned itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from models.encoders import Encoder
from models.finetuning import FinetuningMethod, learning_copy
from models.finetuning.methods import methods


@methods.register
@dataclass(frozen=True, kw_only=True)
class Adapt:
    """Take the few steps that the encoder learned by `maml` or `lstm_learner`, in seconds.

    Finn et al., 2017, https://arxiv.org/abs/1703.03400; Ravi and Larochelle, 2017,
    https://openreview.net/forum?id=rJY0-Kcll How many steps, how long, and from which last layer,
    was learned. So nothing of the recipe counts but `batch_size`: so many images are in memory at a
    time, over which the gradient of a step is summed. They are not augmented, and each label counts
    alike, as in the episodes in which it was learned: see `models.metalearning.adaptation`.
    """

    frozen: ClassVar[bool] = False
    fewest_labels: ClassVar[int] = 2
    unsuited: ClassVar[str] = (
        "many images of each label, of which `discriminative` learns more than a few steps can; "
        "labels unlike those by which the steps were learned"
    )

    def variants(self, encoder: Encoder) -> Sequence[FinetuningMethod]:
        return [self]

    def prepare(self, encoder: Encoder) -> Encoder:
        return learning_copy(encoder)
