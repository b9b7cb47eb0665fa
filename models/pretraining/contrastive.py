"""What contrastive methods share: a batch that its views are told from, or a memory."""

from dataclasses import dataclass, field

from torch import Tensor

from models.encoders import Encoder
from models.pretraining import Joint, Pretext, PretextLoss
from models.pretraining.layers import Bank, projection_head
from models.pretraining.losses import Contrast, swapped
from models.pretraining.views import Views
from models.registry import require_within
from models.training.loop import Batch


class BatchContrast(Joint):
    """Tells the views of an image from those of all others in the batch.

    Args:
        projection: features that are compared.
        layers: of the head that makes them.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        contrast: Contrast,
        projection: int,
        *,
        layers: int = 2,
    ) -> None:
        super().__init__(encoder, views)
        self.contrast, width = contrast, encoder.embedding_dim
        self.head = projection_head(width, width, projection, layers=layers)

    def pretext_loss(self, batch: Batch) -> PretextLoss:
        first, second = (self.head(self.encoder.features(view)) for view in batch.views)
        self.chance = self.contrast.chance(2 * len(first) - 2)
        return PretextLoss(swapped(self.contrast, first, second), [first, second])


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """Options of methods that remember how each image looked."""

    momentum: float = 0.5  # of the memory
    negatives: int = 4096  # memories of others; at most one of each
    projection: int = 128  # features that are compared
    contrast: Contrast = field(default_factory=lambda: Contrast(temperature=0.07))
    views: Views = field(default_factory=Views)

    def __post_init__(self) -> None:
        require_within(self, "momentum", 0, 1)
        require_within(self, "negatives", 1, 1_000_000)
        require_within(self, "projection", 1, 2048)


class MemoryContrast(Pretext):
    """Tells an image from others by a memory of how each looked."""

    bank: Bank

    def __init__(self, encoder: Encoder, options: MemoryOptions) -> None:
        super().__init__(encoder)
        self.options = options

    def compare(self, batch: Batch, image: Tensor, *others: Tensor) -> list[Tensor]:
        """The loss of each kind of features, (B, P); the memory moves towards the first."""
        options, positions = self.options, batch.positions
        remembered = self.bank.features[positions.to(image.device)]
        negatives, is_own = self.bank.negatives(positions, options.negatives)
        self.chance = options.contrast.chance(len(negatives))
        losses = [
            options.contrast(queries, remembered, negatives, is_own) for queries in (image, *others)
        ]
        if self.training:
            self.bank.move(positions, image.detach(), options.momentum)
        return losses
