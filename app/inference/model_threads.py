"""Threads that run the network."""

import time
from functools import partial

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
from models.runtimes.batch_buffer import BatchBuffer
from models.runtimes.streams import compute_alone, compute_with, yield_to_others


class ModelThreads:
    """Embed batches: the first thread with all cores, the others in streams of one core each.

    The first has as many threads of torch only while it computes itself: what OpenVINO or a GPU
    computes needs none, and they would spin.

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
        self._batches = batches
        self._encoders = encoders
        self._admission = admission
        self._warm_up = warm_up
        self._cores = cores
        self._metrics = metrics

    def _run(self, number: int, thread: WatchedThread) -> None:
        compute_alone()
        if number == 0:
            compute_with(self._cores)
            self._warm_up.run(thread)
        buffer, has_yielded = BatchBuffer(), False
        while (batch := self._batches.take(number)) is not None:
            if not batch:
                continue
            thread.busy_since = time.monotonic()
            serving = self._encoders.get(batch[0].queued.version).serving
            if number == 0:  # what is not prepared yet is tried with all cores
                compute_with(self._cores if serving is None or serving.in_caller else 1)
            if serving and serving.in_caller and not has_yielded:
                yield_to_others()
                has_yielded = True
            self._answer(batch, buffer, in_stream=number > 0)
            self._admission.learn_speed(len(batch))
            thread.busy_since = None

    def _answer(self, batch: list[DecodedImage], buffer: BatchBuffer, *, in_stream: bool) -> None:
        """Embed a batch; when it fails, halve it until only the culprit fails."""
        try:
            vectors = self._forward(batch, buffer, in_stream)
        except Exception as error:  # noqa: BLE001 - whatever the network raises is the image's
            if len(batch) > 1:
                middle = len(batch) // 2
                self._answer(batch[:middle], buffer, in_stream=in_stream)
                self._answer(batch[middle:], buffer, in_stream=in_stream)
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

    def _forward(self, batch: list[DecodedImage], buffer: BatchBuffer, in_stream: bool) -> Tensor:
        self._metrics.batch.observe(len(batch))
        started, queued = time.monotonic(), self._metrics.stage.labels("queue")
        for image in batch:
            queued.observe(started - image.since)
        with self._metrics.stage.labels("forward").time():
            loaded = self._encoders.get(batch[0].queued.version)
            serving = loaded.prepare()
            pixels = buffer.gather([image.decoded.pixels for image in batch], serving.device)
            embed = loaded.streams.embed if in_stream and loaded.streams else serving.embed
            return embed(pixels).to(torch.float16)
