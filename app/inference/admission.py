"""Admission: how many images may wait, and for how long."""

import math
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from app.inference.metrics import InferenceMetrics
from app.problems import Overloaded, Unavailable

BULK_SHARE = 0.75  # of the queue, so that there is room for others
MEMORY_S = 1.0  # of work, about, whose speed is that of late
UNMEASURED = 2.0  # times as long as the network an image is expected to take, before any did
CAUTION = 0.6  # of the longest delay: turning others away costs speed that was not learned yet


class AdmissionLimits(NamedTuple):
    """What may wait at most; a request larger than that goes through alone."""

    images: int
    bytes: int
    delay_s: float  # of an image that is not in bulk


class RecentSpeed:
    """How long an image, or a request, takes, judging by the last second of work or so.

    Seconds and images are summed each for itself: streams end at nearly the same time, so that one
    batch seems to have taken all of it and the others none.
    """

    def __init__(self) -> None:
        self._seconds, self._images = 0.0, 0.0

    @property
    def seconds_each(self) -> float:
        """0: none was counted yet."""
        return self._seconds / self._images if self._images else 0.0

    def expect(self, seconds_per_image: float) -> None:
        """Take a speed for that of late, until images are computed."""
        self._seconds, self._images = MEMORY_S, MEMORY_S / seconds_per_image

    def learn(self, images: int, seconds: float) -> None:
        """Count images that were computed, and forget as much as took that long."""
        decay = math.exp(-seconds / MEMORY_S)
        self._seconds = decay * self._seconds + seconds
        self._images = decay * self._images + images


class AdmissionControl:
    """Lets in what will be answered soon, and turns away what would wait too long.

    Args:
        limits: what may be admitted and not yet answered, at once.
        has_dead_thread: whether a thread has ended without which nothing is answered.
    """

    def __init__(
        self,
        limits: AdmissionLimits,
        has_dead_thread: Callable[[], bool],
        metrics: InferenceMetrics,
    ) -> None:
        self.images = 0  # admitted and not yet answered
        self.is_stopping = False
        self._limits = limits
        self._has_dead_thread = has_dead_thread
        self._metrics = metrics
        self._room = threading.Condition()
        self._bytes = 0  # of these images
        self._prompt = 0  # images of these that are not in bulk
        self._speed = RecentSpeed()
        self._busy_since = 0.0  # time.monotonic() at which the first of these was admitted
        self._last_answer = 0.0  # time.monotonic() of the last batch

    def admit(self, images: int, size: int, *, wait: bool, bulk: bool) -> None:
        """Take room for the images of a request until they are released.

        Args:
            images: how many.
            size: bytes of all.
            wait: wait for room instead of being turned away.
            bulk: leave room for what is not in bulk.

        Raises:
            Overloaded: there is no room.
            Unavailable: the service is stopping, or a thread has ended.
        """
        share = BULK_SHARE if bulk else 1.0

        def fits() -> bool:
            return (
                self.images + images <= share * self._limits.images
                and self._bytes + size <= share * self._limits.bytes
                and (bulk or not self.is_too_late(self._prompt + images))
            )

        def may_enter() -> bool:
            # What is larger than the queue goes through alone.
            is_alone = (self.images if bulk else self._prompt) == 0
            return self.is_stopping or is_alone or fits()

        with self._room:
            if wait:
                self._room.wait_for(lambda: may_enter() or self._has_dead_thread())
            if self.is_stopping or self._has_dead_thread():
                raise Unavailable("the service is stopping or its threads have died", retry_after=5)
            if not may_enter():
                raise self.overloaded(self._prompt + images, images)
            if not self.images:
                self._busy_since = time.monotonic()
            self._count(images, size, bulk=bulk)

    def release(self, images: int, size: int, *, bulk: bool) -> None:
        """Give back the room of a request that is answered."""
        with self._room:
            self._count(-images, -size, bulk=bulk)
            self._room.notify_all()

    def drain(self, timeout_s: float) -> None:
        """Admit nothing from here on, and wait until what was admitted is answered."""
        with self._room:
            self.is_stopping = True
            self._room.wait_for(
                lambda: self.images == 0 or self._has_dead_thread(), timeout=timeout_s
            )

    def is_too_late(self, images: int, delay_s: float = 0.0) -> bool:
        """Whether the last of that many images would wait too long, at the speed of late.

        Args:
            images: how many would wait.
            delay_s: how long it would wait at least, for other reasons.
        """
        return self._lateness(images, delay_s) > 0

    def overloaded(self, images: int, refused: int = 1, delay_s: float = 0.0) -> Overloaded:
        """What is answered when that many images would wait, with the time to come again.

        Args:
            images: how many would wait.
            refused: how many of them are turned away by it; 1 where a body was not read.
            delay_s: how long the last would wait at least, for other reasons.
        """
        self._metrics.rejected.inc(refused)
        return Overloaded(
            f"{self.images} images are waiting; send these again in a moment",
            retry_after=max(1, math.ceil(self._lateness(images, delay_s))),
        )

    def expect_speed(self, seconds_per_image: float) -> None:
        """Say how fast the network was alone, before the first request."""
        with self._room:
            self._speed.expect(UNMEASURED * seconds_per_image)
            self._last_answer = time.monotonic()  # who came before has waited for the trial

    def learn_speed(self, images: int) -> None:
        """Look how long a batch took since the one before, or since there was work."""
        answered = time.monotonic()
        with self._room:
            self._speed.learn(images, answered - max(self._busy_since, self._last_answer))
            self._last_answer = answered

    def _lateness(self, images: int, delay_s: float) -> float:
        """Seconds by which that many images would wait too long; less than 0: they would not."""
        delay = max(delay_s, images * self._speed.seconds_each)
        return delay - CAUTION * self._limits.delay_s

    def _count(self, images: int, size: int, *, bulk: bool) -> None:
        self.images += images
        self._prompt += 0 if bulk else images
        self._bytes += size
        self._metrics.waiting.set(self.images)
        self._metrics.waiting_bytes.set(self._bytes)
