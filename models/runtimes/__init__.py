"""Runtimes: ways to compute an encoder for serving. The fastest is found by trial."""

import math
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from models.encoders import Encoder
from models.folding import fold
from models.images import Preprocessing
from models.machine import Measurements, is_busy
from models.registry import Registry

AGREEMENT = 0.9999  # cosine of an embedding to what PyTorch gives in float32, at least
SAMPLES = 24  # pictures on which runtimes must agree
SAMPLES_AT_ONCE = 8  # which needs no more memory than serving does
SECONDS = 0.3  # that a trial of one size of batch takes, at least
FEWEST_RUNS = 3
EQUALLY = 0.95  # of the speed of the fastest size of batch: as fast
TO_LANES = 0.8  # of the speed of all threads together on an idle machine, from which lanes win
REFERENCE = "pytorch"
COMPUTING_NICENESS = 10  # a tenth of the weight of other threads, as Linux has it

Embed = Callable[[UInt8[Tensor, "B 3 S S"]], Float[Tensor, "B D"]]


class RuntimeUnavailable(ValueError):
    """The runtime cannot compute this encoder here; the message says why in one sentence."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a runtime may use."""

    threads: int  # of a CPU, for each batch
    batch: int  # images of the largest
    lanes: int = 1  # batches that are computed at once, each called by a thread of its own
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


class Lanes(NamedTuple):
    """Batches that are computed at once, each by one thread, and none waits for another.

    Threads that share a batch wait for the slowest after every layer. Where one of them lost its
    core to a thread that decodes, that takes longer than the layer.
    """

    embed: Embed  # called by `number` threads at a time, in each of which torch has one thread
    number: int
    batch: int  # images of each with which they are fastest
    images_per_s: float  # then


class Serving(NamedTuple):
    """An encoder as it is served."""

    embed: Embed  # one batch at a time, with all threads
    preprocessing: Preprocessing
    runtime: str
    lanes: Lanes | None = None  # None: these would be slower

    @property
    def in_caller(self) -> bool:
        """Whether the thread that calls computes, and not one beside it."""
        return runtimes[self.runtime].in_caller


class _Choice(NamedTuple):
    """What was found for an architecture."""

    runtime: str
    lanes: Lanes | None

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        lanes = self.lanes
        kept = lanes and {"batch": lanes.batch, "images_per_s": lanes.images_per_s}
        return {"runtime": self.runtime, "lanes": kept}

    @classmethod
    def read(cls, told: Any, threads: int) -> "_Choice | None":
        """What `told` gave; None: that is not what is given."""
        try:
            lanes, found = None, told["lanes"]
            if found is not None:
                batch, images_per_s = int(found["batch"]), float(found["images_per_s"])
                lanes = Lanes(_unprepared, lanes_beside(threads), batch, images_per_s)
            return cls(told["runtime"], lanes) if told["runtime"] in runtimes else None
        except (KeyError, TypeError, ValueError):
            return None


class Chooser:
    """Finds the runtime of each architecture once, and prepares all its encoders with that.

    What was found on a machine that had nothing else to do holds after a restart as well, for the
    same machine, threads and versions of libraries.

    Args:
        wanted: the name of a runtime, or `auto` for the fastest that agrees.
        told: hears of each trial of a choice, the chosen one last, and of its lanes.

    Raises:
        RuntimeUnavailable: there is no runtime of that name.
    """

    def __init__(
        self,
        wanted: str,
        resources: Resources,
        told: Callable[[Sequence[Trial], Lanes | None], None] = lambda trials, lanes: None,
    ) -> None:
        if wanted != "auto" and wanted not in runtimes:
            raise RuntimeUnavailable(
                f"there is no runtime {wanted!r}; known are auto, {', '.join(runtimes)}"
            )
        self._wanted = wanted
        self._limits = resources
        self._told = told
        self._chosen: dict[str, _Choice] = {}
        self._measured = Measurements(resources.cache)
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
            busy, of = is_busy(), self._measured_of(encoder)
            tried = self._chosen.get(repr(encoder))
            known = tried or _Choice.read(self._measured.find(*of), self._limits.threads)
            names = [known.runtime] if known else list(runtimes)
            if self._wanted != "auto":
                names = [self._wanted]
            trials = [try_out(name, folded, self._limits, timed=len(names) > 1) for name in names]
            best = max(trials, key=lambda trial: (not trial.refusal, trial.speed))
            if best.refusal:
                best = try_out(REFERENCE, folded, self._limits, timed=False)
                trials.append(best)
            lanes = self._lanes(best, folded, known)
            choice = self._chosen[repr(encoder)] = _Choice(best.runtime, lanes)
            if not known and not busy:
                self._measured.keep(choice.told(), *of)
            if not tried:
                self._told([*(trial for trial in trials if trial is not best), best], lanes)
        assert best.embed is not None
        return Serving(best.embed, encoder.preprocessing, best.runtime, lanes)

    def _measured_of(self, encoder: Encoder) -> tuple[str, ...]:
        limits = self._limits
        return self._wanted, str(limits.threads), str(limits.batch), repr(encoder)

    def _lanes(self, best: Trial, encoder: Encoder, known: _Choice | None) -> Lanes | None:
        """Lanes of one thread each, if they are about as fast as all threads together.

        They need not be faster: nobody loses a core during a trial, and often in service.
        """
        number, most = lanes_beside(self._limits.threads), self._limits.batch
        if not number or encoder.mean.device.type != "cpu" or (known and not known.lanes):
            return None
        resources = replace(self._limits, threads=1, lanes=number)
        try:
            embed = runtimes[best.runtime]().prepare(encoder, resources)
        except RuntimeUnavailable:
            return None
        if best.runtime != REFERENCE and not agree(embed, encoder) >= AGREEMENT:
            return None
        if known and known.lanes:
            return known.lanes._replace(embed=embed)
        speeds = {
            size: speed_of_lanes(embed, encoder, size, number)
            for size in sorted({1, min(4, most), most})
        }
        fastest = max(speeds.values())
        if fastest < TO_LANES * max(best.images_per_s.values(), default=0.0):
            return None
        batch = next(size for size, found in speeds.items() if found >= EQUALLY * fastest)
        return Lanes(embed, number, batch, speeds[batch])


def _unprepared(_: Tensor) -> Tensor:
    raise AssertionError("these lanes are only remembered")


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


def lanes_beside(threads: int) -> int:
    """How many lanes serve beside a model thread that has so many; 0: none are worth it.

    One more than there are threads: while one waits for the interpreter, its core has another.
    """
    return threads + 1 if threads > 1 else 0


def speed_of_lanes(embed: Embed, encoder: Encoder, size: int, lanes: int) -> float:
    """Images per second of all lanes, in batches of one size."""
    side = encoder.preprocessing.crop
    images = samples(side, 1).expand(size, 3, side, side).contiguous()

    def compute() -> int:
        runs = 0
        while runs < FEWEST_RUNS or time.perf_counter() < started + SECONDS:
            embed(images)
            runs += 1
        return runs

    with ThreadPoolExecutor(lanes, initializer=compute_alone) as threads:
        list(threads.map(embed, [images] * lanes))  # what is set up lazily
        started = time.perf_counter()
        futures = [threads.submit(compute) for _ in range(lanes)]
        runs = sum(future.result() for future in futures)
        return size * runs / (time.perf_counter() - started)


def compute_alone() -> int:
    """Let torch compute in the calling thread alone, and say how many threads it had.

    libgomp gives every thread that computes in parallel a team of its own. As soon as the teams
    have more threads than there are cores, they sleep between the layers of a network instead of
    spinning, which takes an image alone twice the time. So only one thread may have a team.
    """
    threads = torch.get_num_threads()  # only from here on has a thread a number of its own
    torch.set_num_threads(1)
    return threads


def yield_to_others() -> None:
    """Let the calling thread, and those that it starts, wait for threads that answer requests.

    A thread that computes in Python's sight should not, where it can be helped: while it waits for
    a core it may hold the interpreter, for which threads that answer then wait as well.
    """
    with suppress(OSError, AttributeError):  # where threads have no priority of their own
        thread = threading.get_native_id()
        nicer = os.getpriority(os.PRIO_PROCESS, thread) + COMPUTING_NICENESS
        os.setpriority(os.PRIO_PROCESS, thread, nicer)


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
