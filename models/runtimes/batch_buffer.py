"""Where the pixels of a batch are gathered."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor


class BatchBuffer:
    """Memory for the pixels of a batch, kept from one batch to the next."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)

    def gather(
        self, images: Sequence[UInt8[Tensor, "3 S S"]], device: torch.device
    ) -> UInt8[Tensor, "B 3 S S"]:
        """One batch of images of one size; it holds until the next is gathered.

        Args:
            device: that computes them. A GPU reads memory faster that stays in its place.
        """
        shape = (len(images), *images[0].shape)
        size = math.prod(shape)
        if size > len(self._memory):
            pinned = device.type == "cuda"
            self._memory = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        return torch.stack(list(images), out=self._memory[:size].view(shape))
