"""Threads that decode image files."""

import math
import queue
import time

from app.inference.batching import BatchQueue
from app.inference.images import DecodedImage, QueuedImage
from app.inference.metrics import InferenceMetrics
from app.inference.process import WatchedThread
from app.problems import ImageNotDecodable
from models.images import UnreadableImage, decode


class DecodeThreads:
    """Decode images, the earliest due first, and put them where model threads take them.

    Args:
        batches: where decoded images go.
        number: threads.
        max_pixels: of an image; a larger one is refused.
        metrics: counts the time of each image.
    """

    def __init__(
        self, batches: BatchQueue, *, number: int, max_pixels: int, metrics: InferenceMetrics
    ) -> None:
        self.threads = [WatchedThread(f"decode-{n}", self._run) for n in range(number)]
        self._batches = batches
        self._max_pixels = max_pixels
        self._metrics = metrics
        # Beside each image its due time and number, by which it is ordered; None ends a thread.
        self._images: queue.PriorityQueue[tuple[float, int, QueuedImage | None]] = (
            queue.PriorityQueue()
        )

    def put(self, image: QueuedImage) -> None:
        """Add an image."""
        self._images.put((image.due, image.number, image))

    def close(self) -> None:
        """Let the threads end once nothing is left for them."""
        for number, _thread in enumerate(self.threads):
            self._images.put((math.inf, number, None))

    def _run(self, thread: WatchedThread) -> None:
        while (image := self._images.get()[2]) is not None:
            if image.is_cancelled():
                image.outcome.cancel()
                continue
            thread.busy_since = time.monotonic()
            self._decode(image)
            thread.busy_since = None

    def _decode(self, image: QueuedImage) -> None:
        try:
            with self._metrics.stage.labels("decode").time():
                decoded = decode(image.content, image.preprocessing, max_pixels=self._max_pixels)
        except UnreadableImage as error:
            image.outcome.set_result(ImageNotDecodable(str(error)))
        except Exception as error:  # noqa: BLE001 - one image must not stop the thread
            image.outcome.set_result(ImageNotDecodable(f"decoding failed: {error}"))
        else:
            self._batches.put(DecodedImage(image, decoded, time.monotonic()))
