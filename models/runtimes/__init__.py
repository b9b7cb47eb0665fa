"""Runtimes: ways to compute an encoder for serving. The fastest is found by trial."""

import math
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from models.encoders import Encoder
from models.folding import fold
from models.images import Preprocessing
from models.registry import Registry

AGREEMENT = 0.9999  # cosine of an embedding to what PyTorch gives in float32, at least
SAMPLES = 24  # pictures on which runtimes must agree
SAMPLES_AT_ONCE = 8  # which needs no more memory than serving does
SECONDS = 0.3  # that a trial of one size of batch takes, at least
FEWEST_RUNS = 3
REFERENCE = "pytorch"

Embed = Callable[[UInt8[Tensor, "B 3 S S"]], Float[Tensor, "B D"]]


class RuntimeUnavailable(ValueError):
    """The runtime cannot compute this encoder here; the message says why in one sentence."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a runtime may use."""

    threads: int  # of a CPU
    batch: int  # images of the largest
    cache: Path | None = None  # folder for what was converted; None: convert each time


@runtime_checkable
class Runtime(Protocol):
    """The options of one runtime."""

    def prepare(self, encoder: Encoder, resources: Resources) -> Embed:
        """What embeds decoded images as `Encoder.embed` does, on the encoder's device.

        Args:
            encoder: in evaluation mode, its batch normalisation folded.

        Raises:
            RuntimeUnavailable: this runtime cannot compute this encoder here.
        """
        ...


runtimes: Registry[type[Runtime]] = Registry(__name__)


class Trial(NamedTuple):
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


class Serving(NamedTuple):
    """An encoder as it is served."""

    embed: Embed
    preprocessing: Preprocessing
    runtime: str


class Chooser:
    """Finds the runtime of each architecture once, and prepares all its encoders with that.

    Args:
        wanted: the name of a runtime, or `auto` for the fastest that agrees.
        told: hears of each trial of a choice, the chosen one last.

    Raises:
        RuntimeUnavailable: there is no runtime of that name.
    """

    def __init__(
        self,
        wanted: str,
        resources: Resources,
        told: Callable[[Sequence[Trial]], None] = lambda trials: None,
    ) -> None:
        if wanted != "auto" and wanted not in runtimes:
            raise RuntimeUnavailable(
                f"there is no runtime {wanted!r}; known are auto, {', '.join(runtimes)}"
            )
        self._wanted = wanted
        self._limits = resources
        self._told = told
        self._chosen: dict[str, str] = {}
        self._lock = threading.Lock()

    def knows(self, encoder: Encoder) -> bool:
        """Whether the runtime of an encoder is known, so that none has to be tried."""
        return self._wanted != "auto" or repr(encoder) in self._chosen

    def prepare(self, encoder: Encoder) -> Serving:
        """An encoder with its runtime; where that fails, with PyTorch, which never does.

        Trials compute with as many threads as the calling one has.
        """
        folded = fold(encoder)
        with self._lock:
            known = self._chosen.get(repr(encoder))
            names = [known] if known else list(runtimes)
            if self._wanted != "auto":
                names = [self._wanted]
            trials = [try_out(name, folded, self._limits, timed=len(names) > 1) for name in names]
            best = max(trials, key=lambda trial: (not trial.refusal, trial.speed))
            if best.refusal:
                best = try_out(REFERENCE, folded, self._limits, timed=False)
                trials.append(best)
            self._chosen[repr(encoder)] = best.runtime
            if not known:
                self._told([*(trial for trial in trials if trial is not best), best])
        assert best.embed is not None
        return Serving(best.embed, encoder.preprocessing, best.runtime)


def try_out(name: str, encoder: Encoder, resources: Resources, *, timed: bool = True) -> Trial:
    """Prepare an encoder with a runtime, and look whether and how fast it embeds."""
    try:
        embed = runtimes[name]().prepare(encoder, resources)
    except RuntimeUnavailable as error:
        return Trial(name, None, 0.0, {}, str(error))
    agreement = agree(embed, encoder) if name != REFERENCE else 1.0
    if not agreement >= AGREEMENT:  # nor if it is not a number
        refusal = f"its embeddings have a cosine of {agreement:.5f} to those of PyTorch in float32"
        return Trial(name, None, agreement, {}, refusal)
    sizes = sorted({1, min(8, resources.batch), resources.batch}) if timed else []
    return Trial(name, embed, agreement, {size: speed(embed, encoder, size) for size in sizes})


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
    chance = torch.Generator().manual_seed(0)
    pictures = []
    for n in range(count):
        spots = min(side, 2 << n % 6)  # along a side
        noise = torch.randn(1, 3, spots, spots, generator=chance)
        spread, level = torch.rand(2, generator=chance)
        pictures.append(80 * spread * F.interpolate(noise, side, mode="bilinear")[0] + 255 * level)
    return torch.stack(pictures).clamp(0, 255).to(torch.uint8)


class FromPixels(nn.Module):
    """An encoder that takes decoded images as they are, for runtimes that compute a whole graph."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """Unit-length embeddings."""
        embeddings: Tensor = self.encoder(pixels.float() / 255)
        return embeddings
