"""Batched inference: many requests, one forward pass."""

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID

import torch

from app.inference.admission import AdmissionControl, AdmissionLimits
from app.inference.batching import BatchQueue
from app.inference.decode_threads import DecodeThreads
from app.inference.encoder_cache import EncoderCache
from app.inference.images import Outcome, QueuedImage
from app.inference.metrics import InferenceMetrics
from app.inference.model_threads import ModelThreads
from app.inference.warm_up import WarmUp
from app.problems import Problem, Unavailable
from models.encoders import Encoder
from models.runtimes.selector import RuntimeSelector
from models.runtimes.streams import streams_beside

BULK_PATIENCE_S = 30.0  # how much later an image of an upload in bulk counts as having come
LIFE_CHECK_S = 1.0  # between looks whether the threads that are waited for are alive


class RequestCancelled(Exception):
    """Nobody waits for the answer any more."""


class Embedder:
    """Embeds images: decodes in a bounded pool of threads, runs the network in others.

    An image is admitted, decoded, put into a batch and embedded. Each of these is an object of its
    own, with a lock of its own; this one wires them, and waits for what comes out.
    Encoders are loaded on first use and kept by version; the version `warm_up` runs once with
    each batch size before the first request, which would else wait for what is set up lazily.
    Runtimes are tried in the first model thread, which has the cores; an encoder whose runtime is
    known is prepared in the thread of the request that needs it, so that others do not wait.

    Args:
        load: reads a version's encoder.
        selector: finds the runtime of each.
        limits: what may wait at most.
        warm_up: the version that is run before the first request.
        threads: that compute the network.
        max_batch: images of a batch.
        max_pixels: of an image.
        decode_threads: images that are decoded at once.
        encoders_in_memory: encoders that are kept.
        stall_s: from when on a thread that is busy is taken to stand still.
        metrics: counts images and their time.
    """

    def __init__(
        self,
        load: Callable[[UUID], Encoder],
        selector: RuntimeSelector,
        limits: AdmissionLimits,
        *,
        warm_up: UUID | None = None,
        threads: int = 1,
        max_batch: int,
        max_pixels: int,
        decode_threads: int,
        encoders_in_memory: int,
        stall_s: float,
        metrics: InferenceMetrics,
    ) -> None:
        self.when_warm: Callable[[], None] = lambda: None
        self._cores = threads
        self._stall_s = stall_s
        self._metrics = metrics
        self._numbers = itertools.count()
        models = 1 + streams_beside(threads)
        self._encoders = EncoderCache(load, selector, encoders_in_memory)
        self._admission = AdmissionControl(limits, self._has_dead_thread, metrics)
        self._warm_up = WarmUp(
            warm_up,
            self._encoders,
            self._admission,
            max_batch=max_batch,
            listener=lambda: self.when_warm(),
        )
        self.warm = self._warm_up.finished
        self._batches = BatchQueue(
            self._encoders, self._admission, threads=models, max_batch=max_batch
        )
        self._models = ModelThreads(
            self._batches,
            self._encoders,
            self._admission,
            self._warm_up,
            number=models,
            cores=threads,
            metrics=metrics,
        )
        self._decoders = DecodeThreads(
            self._batches, number=decode_threads, max_pixels=max_pixels, metrics=metrics
        )
        self._threads = [*self._models.threads, *self._decoders.threads]

    def __enter__(self) -> "Embedder":
        torch.set_num_threads(1)  # of this thread, and of those yet to come
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Finish what was admitted, then stop the threads."""
        self._admission.drain(self._stall_s)
        self._decoders.close()
        self._batches.close()
        for thread in self._threads:
            thread.join(self._stall_s)
        torch.set_num_threads(self._cores)

    def embed(
        self,
        version: UUID,
        contents: Sequence[bytes],
        *,
        wait: bool = False,
        bulk: bool = False,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> list[Outcome]:
        """Embed image files; an image that fails is a `Problem` at its place.

        Args:
            version: the encoder version to embed with.
            contents: the files' bytes.
            wait: wait for room instead of being turned away.
            bulk: let what comes meanwhile go first, for a while.
            is_cancelled: whether the answer is waited for no more; asked before an image is
                decoded and before it is embedded.

        Raises:
            Overloaded: the queue is full.
            RequestCancelled: the answer is waited for no more.
            Unavailable: the inference threads are not running.
        """
        loaded = self._encoders.get(version)
        loaded.prepare_if_known()
        preprocessing = loaded.encoder.preprocessing
        size = sum(map(len, contents))
        with self.stage("admit"):
            self._admission.admit(len(contents), size, wait=wait, bulk=bulk)
        due = time.monotonic() + (BULK_PATIENCE_S if bulk else 0.0)
        images = [
            QueuedImage(
                due, next(self._numbers), version, content, preprocessing, is_cancelled, Future()
            )
            for content in contents
        ]
        try:
            for image in images:
                self._decoders.put(image)
            return [self._outcome(image) for image in images]
        finally:
            self._admission.release(len(contents), size, bulk=bulk)

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """Counts the time of a stage before or behind the network."""
        return self._metrics.stage.labels(name).time()

    def encoder(self, version: UUID) -> Encoder:
        """The encoder of a version, loaded if need be."""
        return self._encoders.get(version).encoder

    @property
    def runtime(self) -> str | None:
        """What computes the version that was warmed up; None: it is warming up."""
        return self._warm_up.runtime

    @property
    def admission(self) -> AdmissionControl:
        """What knows how long images wait."""
        return self._admission

    def ailments(self) -> list[str]:
        """What is wrong with the threads; empty when all is well."""
        ailments = (thread.ailment(self._stall_s) for thread in self._threads)
        return [ailment for ailment in ailments if ailment is not None]

    def _has_dead_thread(self) -> bool:
        return not all(thread.is_alive() for thread in self._threads)

    def _outcome(self, image: QueuedImage) -> Outcome:
        """Wait for an answer, but not for a thread that will never give one."""
        while True:
            try:
                outcome = image.outcome.result(timeout=LIFE_CHECK_S)
            except TimeoutError:
                if self._has_dead_thread():
                    raise Unavailable("an inference thread has died", retry_after=5) from None
                continue
            except CancelledError:
                self._metrics.images.labels("given_up").inc()
                raise RequestCancelled from None
            failed = isinstance(outcome, Problem)
            self._metrics.images.labels("failed" if failed else "embedded").inc()
            return outcome
