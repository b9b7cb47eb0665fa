"""Warm-up: what is set up lazily is set up before the first request."""

import threading
import time
from collections.abc import Callable
from uuid import UUID

import torch

from app.inference.admission import AdmissionControl
from app.inference.encoder_cache import EncoderCache
from app.inference.process import WatchedThread, give_back_memory
from app.logs import logger

log = logger("handful.inference")


class WarmUp:
    """Runs a version once with each batch size, and tells admission how fast the largest was.

    Args:
        version: the encoder version; None: there is nothing to run.
        encoders: loads and prepares it.
        admission: learns the speed, and knows whether the service is stopping.
        max_batch: images of the largest batch.
        listener: called in the model thread before requests are computed.
    """

    def __init__(
        self,
        version: UUID | None,
        encoders: EncoderCache,
        admission: AdmissionControl,
        *,
        max_batch: int,
        listener: Callable[[], None],
    ) -> None:
        self.finished = threading.Event()
        self._version = version
        self._encoders = encoders
        self._admission = admission
        self._max_batch = max_batch
        self._listener = listener

    @property
    def runtime(self) -> str | None:
        """What computes the version; None: it was not prepared yet."""
        loaded = self._encoders.find(self._version) if self._version else None
        return loaded.serving.runtime if loaded and loaded.serving else None

    def run(self, thread: WatchedThread) -> None:
        """Warm up in the calling thread, which has the cores that runtimes are tried with."""
        seconds = self._measure(self._version, thread) if self._version else None
        thread.busy_since = None
        if seconds:
            self._admission.expect_speed(seconds)
        self._listener()
        self.finished.set()
        log.info("warm", encoder=str(self._version))

    def _measure(self, version: UUID, thread: WatchedThread) -> float | None:
        """Seconds of an image in the largest batch; None: the service stopped before that."""
        size = 1
        while not self._admission.is_stopping:
            thread.busy_since = time.monotonic()
            loaded = self._encoders.get(version)
            serving = loaded.prepare()
            if size == 1:
                give_back_memory()  # of the runtimes that were tried
            side = serving.preprocessing.crop
            images = torch.zeros(size, 3, side, side, dtype=torch.uint8)
            serving.embed(images)
            if loaded.streams:
                # Tried in all sizes; together only images alone are computed.
                return 1 / loaded.streams.images_per_s
            if size * 2 > self._max_batch:
                started = time.perf_counter()
                serving.embed(images)
                return (time.perf_counter() - started) / size
            size *= 2
        return None
