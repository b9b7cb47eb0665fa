"""The fastest runtime for an encoder, found by trial and remembered."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.encoders import Encoder
from models.images import Preprocessing
from models.runtimes import Embed, Resources, RuntimeUnavailable
from models.runtimes.folding import fold
from models.runtimes.kinds import runtimes
from models.runtimes.measurements import Measurements, is_busy
from models.runtimes.streams import Streams, speed_of_streams, streams_beside
from models.runtimes.trial import AGREEMENT, REFERENCE, RuntimeTrial, agree, try_out

EQUALLY = 0.95  # of the speed of the fastest size of batch: as fast


TO_STREAMS = 0.8  # of the speed of all threads together on an idle machine, from which streams win


class Serving(NamedTuple):
    """An encoder as it is served."""

    embed: Embed  # one batch at a time, with all threads
    preprocessing: Preprocessing
    runtime: str
    device: torch.device
    streams: Streams | None = None  # None: these would be slower

    @property
    def in_caller(self) -> bool:
        """Whether the thread that calls computes, on a CPU, and none beside it."""
        return self.device.type == "cpu" and runtimes[self.runtime].in_caller


class _Choice(NamedTuple):
    """What was chosen for an architecture."""

    runtime: str
    streams: Streams | None

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        streams = self.streams
        speed = streams and {"batch": streams.batch, "images_per_s": streams.images_per_s}
        return {"runtime": self.runtime, "streams": speed}

    @classmethod
    def read(cls, document: Any, threads: int) -> "_Choice | None":
        """The choice of a document; None: it is not one."""
        try:
            streams, speed = None, document["streams"]
            if speed is not None:
                batch, images_per_s = int(speed["batch"]), float(speed["images_per_s"])
                streams = Streams(_unprepared, streams_beside(threads), batch, images_per_s)
            return cls(document["runtime"], streams) if document["runtime"] in runtimes else None
        except (KeyError, TypeError, ValueError):
            return None


TrialListener = Callable[[Sequence[RuntimeTrial], Streams | None], None]


class RuntimeSelector:
    """Finds the runtime of each architecture once, and prepares all its encoders with that.

    What was found on a machine that had nothing else to do holds after a restart as well, for the
    same machine, threads and versions of libraries.

    Args:
        setting: the name of a runtime, or `auto` for the fastest that agrees.
        listener: hears of each trial of a choice, the chosen one last, and of its streams.

    Raises:
        RuntimeUnavailable: there is no runtime of that name.
    """

    def __init__(
        self,
        setting: str,
        resources: Resources,
        listener: TrialListener = lambda trials, streams: None,
    ) -> None:
        if setting != "auto" and setting not in runtimes:
            raise RuntimeUnavailable(
                f"there is no runtime {setting!r}; known are auto, {', '.join(runtimes)}"
            )
        self._setting = setting
        self._limits = resources
        self._listener = listener
        self._choices: dict[str, _Choice] = {}
        self._measured = Measurements(resources.cache)
        self._lock = threading.Lock()

    def knows(self, encoder: Encoder) -> bool:
        """Whether the runtime of an encoder is known, so that none has to be tried."""
        return self._setting != "auto" or repr(encoder) in self._choices

    def prepare(self, encoder: Encoder) -> Serving:
        """An encoder with its runtime; where that fails, with PyTorch, which never does.

        Trials compute with as many threads as the calling one has.
        """
        folded = fold(encoder)
        with self._lock:
            busy, of = is_busy(), self._measured_of(encoder)
            tried = self._choices.get(repr(encoder))
            choice = tried or _Choice.read(self._measured.find(*of), self._limits.threads)
            names = [choice.runtime] if choice else list(runtimes)
            if self._setting != "auto":
                names = [self._setting]
            trials = [try_out(name, folded, self._limits, timed=len(names) > 1) for name in names]
            best = max(trials, key=lambda trial: (not trial.refusal, trial.speed))
            if best.refusal:
                best = try_out(REFERENCE, folded, self._limits, timed=False)
                trials.append(best)
            streams = self._streams(best, folded, choice)
            latest = self._choices[repr(encoder)] = _Choice(best.runtime, streams)
            if not choice and not busy:
                self._measured.keep(latest.document(), *of)
            if not tried:
                self._listener([*(trial for trial in trials if trial is not best), best], streams)
        assert best.embed is not None
        device = encoder.mean.device
        return Serving(best.embed, encoder.preprocessing, best.runtime, device, streams)

    def _measured_of(self, encoder: Encoder) -> tuple[str, ...]:
        limits = self._limits
        return self._setting, str(limits.threads), str(limits.batch), repr(encoder)

    def _streams(
        self, best: RuntimeTrial, encoder: Encoder, choice: _Choice | None
    ) -> Streams | None:
        """Streams of one thread each, if they are about as fast as all threads together.

        They need not be faster: nobody loses a core during a trial, and often in service.
        """
        number, most = streams_beside(self._limits.threads), self._limits.batch
        if not number or encoder.mean.device.type != "cpu" or (choice and not choice.streams):
            return None
        resources = replace(self._limits, threads=1, streams=number)
        try:
            embed = runtimes[best.runtime]().prepare(encoder, resources)
        except RuntimeUnavailable:
            return None
        if best.runtime != REFERENCE and not agree(embed, encoder) >= AGREEMENT:
            return None
        if choice and choice.streams:
            return choice.streams._replace(embed=embed)
        speeds = {
            size: speed_of_streams(embed, encoder, size, number)
            for size in sorted({1, min(4, most), most})
        }
        fastest = max(speeds.values())
        if fastest < TO_STREAMS * max(best.images_per_s.values(), default=0.0):
            return None
        batch = next(size for size, rate in speeds.items() if rate >= EQUALLY * fastest)
        return Streams(embed, number, batch, speeds[batch])


def _unprepared(_: Tensor) -> Tensor:
    raise AssertionError("these streams are only remembered")
