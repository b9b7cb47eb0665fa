"""PyTorch as it is, in float32: the reference of all others."""

from dataclasses import dataclass
from typing import ClassVar

from models.encoders import Encoder
from models.runtimes import Embed, Resources
from models.runtimes.kinds import runtimes


@runtimes.register
@dataclass(frozen=True)
class PyTorch:
    """Computes layer by layer; takes every encoder on every device."""

    in_caller: ClassVar[bool] = True

    def prepare(self, encoder: Encoder, resources: Resources) -> Embed:
        return encoder.embed
