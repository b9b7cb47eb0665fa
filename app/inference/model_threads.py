"""Threads that run the network."""

import threading
import time
from functools import partial
from uuid import UUID

import torch
from torch import Tensor

from app.inference.admission import AdmissionControl
from app.inference.batching import BatchQueue
from app.inference.encoder_cache import EncoderCache
from app.inference.images import DecodedImage, Embedded
from app.inference.metrics import InferenceMetrics
from app.inference.process import WatchedThread
from app.inference.warm_up import WarmUp
from app.problems import InferenceFailed
from models.runtimes.streams import compute_alone, yield_to_others


class ModelThreads:
    """Embed batches: the first thread with all cores, the others in streams of one core each.

    Args:
        batches: where decoded images are taken from.
        encoders: knows what computes each version.
        admission: learns how fast batches are.
        warm_up: runs in the first thread, before it takes batches.
        number: threads.
        cores: threads that torch computes with in the first of them.
        metrics: counts the size and the time of each batch.
    """

    def __init__(
        self,
        batches: BatchQueue,
        encoders: EncoderCache,
        admission: AdmissionControl,
        warm_up: WarmUp,
        *,
        number: int,
        cores: int,
        metrics: InferenceMetrics,
    ) -> None:
        self.threads = [
            WatchedThread(f"stream-{n}" if n else "model", partial(self._run, n))
            for n in range(number)
        ]
        self.has_cores = threading.Event()  # the first thread, and threads yet to come may not
        self._batches = batches
        self._encoders = encoders
        self._admission = admission
        self._warm_up = warm_up
        self._cores = cores
        self._metrics = metrics

    def _run(self, number: int, thread: WatchedThread) -> None:
        compute_alone()
        if number == 0:
            torch.set_num_threads(self._cores)
            self.has_cores.set()
            self._warm_up.run(thread)
        has_yielded = False
        while (batch := self._batches.take(number)) is not None:
            if not batch:
                continue
            thread.busy_since = time.monotonic()
            if not has_yielded and self._computes_here(batch[0].queued.version):
                yield_to_others()
                has_yielded = True
            self._answer(batch, in_stream=number > 0)
            self._admission.learn_speed(len(batch))
            thread.busy_since = None

    def _computes_here(self, version: UUID) -> bool:
        """Whether the thread that calls for embeddings computes them itself, on a CPU."""
        loaded = self._encoders.get(version)
        on_cpu = loaded.encoder.mean.device.type == "cpu"
        return on_cpu and loaded.serving is not None and loaded.serving.in_caller

    def _answer(self, batch: list[DecodedImage], *, in_stream: bool) -> None:
        """Embed a batch; when it fails, halve it until only the culprit fails."""
        try:
            vectors = self._forward(batch, in_stream)
        except Exception as error:  # noqa: BLE001 - whatever the network raises is the image's
            if len(batch) > 1:
                middle = len(batch) // 2
                self._answer(batch[:middle], in_stream=in_stream)
                self._answer(batch[middle:], in_stream=in_stream)
                return
            batch[0].queued.outcome.set_result(
                InferenceFailed(f"the encoder failed on this image: {error}")
            )
            return
        finite = vectors.isfinite().all(dim=1).tolist()
        for (queued, decoded, _), vector, is_finite in zip(batch, vectors, finite, strict=True):
            queued.outcome.set_result(
                Embedded(vector, decoded.media_type, decoded.width, decoded.height)
                if is_finite
                else InferenceFailed("the encoder gave numbers that are not finite")
            )

    def _forward(self, batch: list[DecodedImage], in_stream: bool) -> Tensor:
        self._metrics.batch.observe(len(batch))
        started, queued = time.monotonic(), self._metrics.stage.labels("queue")
        for image in batch:
            queued.observe(started - image.since)
        with self._metrics.stage.labels("forward").time():
            loaded = self._encoders.get(batch[0].queued.version)
            serving = loaded.prepare()
            pixels = torch.stack([image.decoded.pixels for image in batch])
            embed = loaded.streams.embed if in_stream and loaded.streams else serving.embed
            return embed(pixels).to(torch.float16)
