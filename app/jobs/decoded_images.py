"""The images of a job, decoded for training."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from app.jobs.context import JobContext, JobFailed
from app.jobs.training_data import FEWEST, TrainingData
from app.storage.blobs import Blobs
from models.encoders import Encoder
from models.images import Preprocessing, UnreadableImage, decode


class DecodedImages:
    """Images by position, decoded by threads; as many stay decoded as fit into memory.

    Pillow lets other threads run while it decodes, so threads do what processes would, without
    copying pixels between them.
    """

    def __init__(
        self,
        blobs: Blobs,
        digests: Iterable[str],
        preprocessing: Preprocessing,
        *,
        max_pixels: int,
        cache_bytes: int,
        threads: int = 0,
    ) -> None:
        self._blobs = blobs
        self._digests = list(digests)
        self._preprocessing = preprocessing
        self._max_pixels = max_pixels
        self._room = cache_bytes // (3 * preprocessing.crop**2)  # images
        self._decoded: dict[int, Tensor] = {}
        self._pool = ThreadPoolExecutor(threads or os.cpu_count() or 1, "training-decode")

    def __len__(self) -> int:
        return len(self._digests)

    def __getitem__(self, positions: Tensor, /) -> Tensor:
        return torch.stack(list(self._pool.map(self._decode, positions.tolist())))

    def unreadable(self) -> list[int]:
        """The positions of images that cannot be decoded any more."""
        return [
            n for n, reads in enumerate(self._pool.map(self._reads, range(len(self)))) if not reads
        ]

    def only(self, positions: list[int]) -> "DecodedImages":
        """These images alone, with what is decoded already."""
        digests = [self._digests[n] for n in positions]
        part = DecodedImages(
            self._blobs,
            digests,
            self._preprocessing,
            max_pixels=self._max_pixels,
            cache_bytes=self._room * 3 * self._preprocessing.crop**2,
        )
        part._decoded = {
            new: self._decoded[n] for new, n in enumerate(positions) if n in self._decoded
        }
        return part

    def _reads(self, position: int) -> bool:
        try:
            self._decode(position)
        except (UnreadableImage, FileNotFoundError):
            return False
        return True

    def _decode(self, position: int) -> Tensor:
        if position in self._decoded:
            return self._decoded[position]
        content = self._blobs.get(self._digests[position])
        pixels = decode(content, self._preprocessing, max_pixels=self._max_pixels).pixels
        if len(self._decoded) < self._room:
            self._decoded[position] = pixels
        return pixels


class Material(NamedTuple):
    """What a job learns from, ready to be used."""

    data: TrainingData
    encoder: Encoder  # to start from
    images: "DecodedImages"

    def pack(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return self.data.pack()


def decode_labeled(context: JobContext, data: TrainingData) -> Material:
    """The labeled images that can still be read, for the version that has not seen the labels.

    Raises:
        JobFailed: they are too few.
    """
    encoder = context.through_outages(lambda: context.versions.load(data.base))
    digests = [example.sha256 for example in data.labeled.examples]
    positions, images = decode_readable(context, digests, encoder)
    readable = data.labeled.only(positions)
    if len(positions) < len(digests) and not readable.is_enough:
        raise JobFailed(
            f"too few images can be read: at least {FEWEST} labels with {FEWEST} images each "
            "are needed; upload the missing ones again"
        )
    return Material(replace(data, labeled=readable), encoder, images)


def decode_readable(
    context: JobContext, digests: Sequence[str], encoder: Encoder
) -> tuple[list[int], "DecodedImages"]:
    """The positions of the images that can still be read, and these, decoded for an encoder."""
    images = DecodedImages(
        context.blobs,
        digests,
        encoder.preprocessing,
        max_pixels=context.max_pixels,
        cache_bytes=context.cache_bytes,
        threads=context.decode_threads,
    )
    unreadable = set(images.unreadable())
    positions = [n for n in range(len(images)) if n not in unreadable]
    if not unreadable:
        return positions, images
    count = len(unreadable)
    context.message(f"{count} images cannot be read any more and are left out", skipped=count)
    return positions, images.only(positions)
