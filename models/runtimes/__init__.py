"""Runtimes: ways to compute an encoder for serving. The fastest is found by trial."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor, nn

from models.encoders import Encoder

Embed = Callable[[UInt8[Tensor, "B 3 S S"]], Float[Tensor, "B D"]]


class RuntimeUnavailable(ValueError):
    """The runtime cannot compute this encoder here; the message says why in one sentence."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a runtime may use."""

    threads: int  # of a CPU, for each batch
    batch: int  # images of the largest
    streams: int = 1  # batches that are computed at once, each called by a thread of its own
    cache: Path | None = None  # folder for what was converted; None: convert each time


@runtime_checkable
class Runtime(Protocol):
    """The options of one runtime."""

    in_caller: ClassVar[bool]  # whether the thread that calls computes, and not one beside it

    def prepare(self, encoder: Encoder, resources: Resources) -> Embed:
        """What embeds decoded images as `Encoder.embed` does, on the encoder's device.

        Args:
            encoder: in evaluation mode, its batch normalisation folded.

        Raises:
            RuntimeUnavailable: this runtime cannot compute this encoder here.
        """
        ...


class FromPixels(nn.Module):
    """An encoder that takes decoded images as they are, for runtimes that compute a whole graph."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """Unit-length embeddings."""
        embeddings: Tensor = self.encoder(pixels.float() / 255)
        return embeddings
