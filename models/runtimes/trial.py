"""A trial of runtimes: whether each agrees with PyTorch, and how fast it embeds."""

import math
import statistics
import time
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

from models.encoders import Encoder
from models.runtimes import Embed, Resources, RuntimeUnavailable
from models.runtimes.kinds import runtimes

AGREEMENT = 0.9999  # cosine of an embedding to what PyTorch gives in float32, at least


SAMPLES = 24  # pictures on which runtimes must agree


SAMPLES_AT_ONCE = 8  # which needs no more memory than serving does


SECONDS = 0.3  # that a trial of one size of batch takes, at least


FEWEST_RUNS = 3


REFERENCE = "pytorch"


class RuntimeTrial(NamedTuple):
    """How a runtime did with an encoder."""

    runtime: str
    embed: Embed | None  # None: it is unavailable
    agreement: float  # lowest cosine of an embedding to that in float32
    images_per_s: dict[int, float]  # by size of batch
    refusal: str = ""  # why it cannot be used; empty when it can

    @property
    def speed(self) -> float:
        """Images per second, the geometric mean over the sizes of batches."""
        return statistics.geometric_mean(self.images_per_s.values()) if self.images_per_s else 0.0


def try_out(
    name: str, encoder: Encoder, resources: Resources, *, timed: bool = True
) -> RuntimeTrial:
    """Prepare an encoder with a runtime, and look whether and how fast it embeds."""
    try:
        embed = runtimes[name]().prepare(encoder, resources)
    except RuntimeUnavailable as error:
        return RuntimeTrial(name, None, 0.0, {}, str(error))
    agreement = agree(embed, encoder) if name != REFERENCE else 1.0
    if not agreement >= AGREEMENT:  # nor if it is not a number
        refusal = f"its embeddings have a cosine of {agreement:.5f} to those of PyTorch in float32"
        return RuntimeTrial(name, None, agreement, {}, refusal)
    sizes = sorted({1, min(8, resources.batch), resources.batch}) if timed else []
    return RuntimeTrial(
        name, embed, agreement, {size: speed(embed, encoder, size) for size in sizes}
    )


def agree(embed: Embed, encoder: Encoder) -> float:
    """The lowest cosine of an embedding to what PyTorch gives in float32."""
    lowest = 1.0
    for pictures in torch.split(samples(encoder.preprocessing.crop), SAMPLES_AT_ONCE):
        cosines = (embed(pictures).cpu() * encoder.embed(pictures)).sum(dim=1)
        lowest = min(lowest, *cosines.tolist()) if cosines.isfinite().all() else math.nan
    return lowest


def speed(embed: Embed, encoder: Encoder, size: int) -> float:
    """Images per second in batches of one size, the median run."""
    side = encoder.preprocessing.crop
    images = samples(side, 1).expand(size, 3, side, side).contiguous()
    embed(images)  # what is set up lazily
    seconds: list[float] = []
    while len(seconds) < FEWEST_RUNS or sum(seconds) < SECONDS:
        started = time.perf_counter()
        embed(images)
        seconds.append(time.perf_counter() - started)
    return size / statistics.median(seconds)


def samples(side: int, count: int = SAMPLES) -> UInt8[Tensor, "N 3 S S"]:
    """Pictures from smooth to busy, pale to vivid and dark to bright.

    Arithmetic of low precision goes wrong on some of them as it does on the worst of many photos,
    and on pure noise hardly at all.
    """
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for n in range(count):
        spots = min(side, 2 << n % 6)  # along a side
        noise = torch.randn(1, 3, spots, spots, generator=generator)
        contrast, level = torch.rand(2, generator=generator)
        pictures.append(
            80 * contrast * F.interpolate(noise, side, mode="bilinear")[0] + 255 * level
        )
    return torch.stack(pictures).clamp(0, 255).to(torch.uint8)
