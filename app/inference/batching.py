"""Batches of decoded images, and which thread computes them."""

import heapq
import threading

from app.inference.admission import AdmissionControl
from app.inference.encoder_cache import EncoderCache
from app.inference.images import DecodedImage
from models.runtimes.streams import Streams


class BatchQueue:
    """Decoded images, the earliest due first, for model threads to take in batches.

    Model threads pull: whenever one is free it takes what is decoded, so requests that arrive
    together share a forward pass and nobody waits for a timer. Thread 0 computes with all cores: an
    image alone, and where a trial found no streams as fast, all, up to `max_batch` at once. The
    other threads are for streams, each of which computes with one core.

    Args:
        encoders: knows which versions are computed in streams.
        admission: knows how many images are on their way.
        threads: model threads that take batches.
        max_batch: images of a batch that is computed with all cores.
    """

    def __init__(
        self,
        encoders: EncoderCache,
        admission: AdmissionControl,
        *,
        threads: int,
        max_batch: int,
    ) -> None:
        self._encoders = encoders
        self._admission = admission
        self._max_batch = max_batch
        self._images: list[DecodedImage] = []  # a heap
        self._lock = threading.Lock()
        self._bells = [threading.Condition(self._lock) for _ in range(threads)]
        self._idle: set[int] = set()  # model threads that wait for their bell
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._images)

    def put(self, image: DecodedImage) -> None:
        """Add an image, and wake a thread that may take it."""
        with self._lock:
            heapq.heappush(self._images, image)
            self._ring()

    def take(self, thread: int) -> list[DecodedImage] | None:
        """Wait for images, and take those of one version that are due first.

        None when closed; empty when nobody waits for what was decoded.
        """
        with self._lock:
            while not self._may_take(thread):
                if self._is_closed:
                    return None
                self._ring()  # another, if there is something that is not for this one
                self._idle.add(thread)
                self._bells[thread].wait()
                self._idle.discard(thread)
            streams = self._streams() if thread else None
            batch = self._pop(streams.batch if streams else self._max_batch)
            self._ring()
            return batch

    def close(self) -> None:
        """Let the threads end once nothing is left for them."""
        with self._lock:
            self._is_closed = True
            for bell in self._bells:
                bell.notify()

    def _pop(self, limit: int) -> list[DecodedImage]:
        batch: list[DecodedImage] = []
        while (
            self._images
            and len(batch) < limit
            and (not batch or self._images[0].queued.version == batch[0].queued.version)
        ):
            image = heapq.heappop(self._images)
            if image.queued.is_cancelled():
                image.queued.outcome.cancel()
            else:
                batch.append(image)
        return batch

    def _ring(self) -> None:
        """Wake a model thread that may take what is decoded, if one is idle."""
        thread = next((idle for idle in sorted(self._idle) if self._may_take(idle)), None)
        if thread is not None:
            self._idle.discard(thread)
            self._bells[thread].notify()

    def _may_take(self, thread: int) -> bool:
        if not self._images:
            return False
        if self._streams() is None:
            return thread == 0
        return thread > 0 or self._admission.images <= 1

    def _streams(self) -> Streams | None:
        """Those of the version that is next; None also if it was not prepared yet."""
        loaded = self._encoders.find(self._images[0].queued.version)
        return loaded.streams if loaded else None
