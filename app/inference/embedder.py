"""Batched inference: many requests, one forward pass."""

import heapq
import itertools
import math
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import torch
from torch import Tensor

from app.inference.metrics import InferenceMetrics
from app.inference.process import give_back_memory
from app.logs import logger
from app.problems import ImageNotDecodable, InferenceFailed, Overloaded, Problem, Unavailable
from models.encoders import Encoder
from models.images import Decoded, Preprocessing, UnreadableImage, decode
from models.runtimes.selector import RuntimeSelector, Serving
from models.runtimes.streams import Streams, compute_alone, streams_beside, yield_to_others

log = logger("handful.inference")
BULK_SHARE = 0.75  # of the queue, so that there is room for others
MEMORY_S = 1.0  # of work, about, whose speed is that of late
UNMEASURED = 2.0  # times as long as the network an image is expected to take, before any did
CAUTION = 0.6  # of the longest delay: turning others away costs speed that was not learned yet
BULK_PATIENCE_S = 30.0  # how much later an image of an upload in bulk counts as having come


class RequestCancelled(Exception):
    """Nobody waits for the answer any more."""


class Embedded(NamedTuple):
    """An image that was decoded and embedded."""

    vector: Tensor  # (D,), float16, unit length
    media_type: str
    width: int  # pixels, upright
    height: int


Outcome = Embedded | Problem


class _Item(NamedTuple):
    due: float  # by time.monotonic(); the earliest goes first
    number: int  # of equals the one that came first
    version: UUID
    content: bytes
    preprocessing: Preprocessing
    given_up: Callable[[], bool]  # by who waited for it
    outcome: "Future[Outcome]"  # cancelled when it was given up


class _Ready(NamedTuple):
    item: _Item
    decoded: Decoded
    since: float  # by time.monotonic()


class _Loaded:
    """An encoder in memory, and what computes it once that is prepared."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.serving: Serving | None = None
        self._preparing = threading.Lock()

    def prepare(self, chooser: RuntimeSelector) -> Serving:
        with self._preparing:
            if self.serving is None:
                self.serving = chooser.prepare(self.encoder)
            return self.serving


class _Worker:
    """A thread whose death or standstill can be seen from outside."""

    def __init__(self, name: str, run: Callable[["_Worker"], None]) -> None:
        self.busy_since: float | None = None
        self.error: BaseException | None = None
        self._run = run
        self.thread = threading.Thread(target=self._guard, name=name, daemon=True)

    def _guard(self) -> None:
        try:
            self._run(self)
        except BaseException as error:
            self.error = error
            log.exception("thread ended", thread=self.thread.name, exc_info=error)

    def ailment(self, stall_s: float) -> str | None:
        if not self.thread.is_alive():
            return f"thread {self.thread.name} has ended: {self.error!r}"
        since = self.busy_since
        if since is not None and time.monotonic() - since > stall_s:
            return f"thread {self.thread.name} has been busy for {time.monotonic() - since:.0f} s"
        return None


class Embedder:
    """Embeds images: decodes in a bounded pool of threads, runs the network in others.

    Model threads pull: whenever one is free it takes what is decoded, so requests that arrive
    together share a forward pass and nobody waits for a timer. The first model thread computes with
    all cores: an image alone, and where a trial found no lanes as fast, all, up to `max_batch` at
    once. Lanes are the other model threads, each of which computes with one core.
    Encoders are loaded on first use and kept by version; the version `warm_up` runs once with
    each batch size before the first request, which would else wait for what is set up lazily.
    Runtimes are tried in the first model thread, which has the threads; an encoder whose runtime is
    known is prepared in the thread of the request that needs it, so that others do not wait.
    """

    def __init__(
        self,
        load: Callable[[UUID], Encoder],
        chooser: RuntimeSelector,
        *,
        warm_up: UUID | None = None,
        threads: int = 1,
        max_batch: int,
        max_images: int,
        max_bytes: int,
        max_delay_s: float,
        max_pixels: int,
        decode_threads: int,
        encoders_in_memory: int,
        stall_s: float,
        metrics: InferenceMetrics,
    ) -> None:
        self._load = load
        self._chooser = chooser
        self._warm_up = warm_up
        self._threads = threads  # that compute the network
        self._has_threads = threading.Event()
        self.warm = threading.Event()
        self.when_warm: Callable[[], None] = lambda: None
        self._max_batch = max_batch
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._max_delay_s = max_delay_s
        self._max_pixels = max_pixels
        self._keep = encoders_in_memory
        self._stall_s = stall_s
        self._metrics = metrics
        self._encoders: OrderedDict[UUID, _Loaded] = OrderedDict()
        self._loading = threading.Lock()
        self._room = threading.Condition()
        # Admitted and not yet answered: all, and those that are not in bulk.
        self._images = self._bytes = self._prompt = 0
        # While there was work, lately: so many seconds, in which so many images were computed.
        self._seconds, self._computed = 0.0, 0.0
        self._last_answer = 0.0  # time.monotonic() of the last batch
        self._busy_since = 0.0  # time.monotonic() at which the first of these was admitted
        self._stopping = False
        self._numbers = itertools.count()
        # Beside each item its due time and number, by which it is ordered; None ends a thread.
        self._undecoded: queue.PriorityQueue[tuple[float, int, _Item | None]] = (
            queue.PriorityQueue()
        )
        self._ready: list[_Ready] = []  # a heap
        self._handing = threading.Lock()  # for what was decoded
        models = 1 + streams_beside(threads)
        self._bells = [threading.Condition(self._handing) for _ in range(models)]
        self._idle: set[int] = set()  # model threads that wait for their bell
        self._workers = [
            _Worker(f"lane-{n}" if n else "model", partial(self._embed_ready, n))
            for n in range(models)
        ] + [_Worker(f"decode-{n}", self._decode_next) for n in range(decode_threads)]

    def __enter__(self) -> "Embedder":
        for worker in self._workers:
            worker.thread.start()
        self._has_threads.wait()
        torch.set_num_threads(1)  # of threads yet to come
        return self

    def __exit__(self, *_: object) -> None:
        """Finish what was admitted, then stop the threads."""
        with self._room:
            self._stopping = True
            self._room.wait_for(lambda: self._images == 0 or self._dead(), timeout=self._stall_s)
        for _decoder in self._workers[len(self._bells) :]:
            self._undecoded.put((math.inf, next(self._numbers), None))
        with self._handing:
            for bell in self._bells:
                bell.notify()
        for worker in self._workers:
            worker.thread.join(timeout=self._stall_s)
        torch.set_num_threads(self._threads)

    def embed(
        self,
        version: UUID,
        contents: Sequence[bytes],
        *,
        wait: bool = False,
        bulk: bool = False,
        given_up: Callable[[], bool] = lambda: False,
    ) -> list[Outcome]:
        """Embed image files; an image that fails is a `Problem` at its place.

        Args:
            version: the encoder version to embed with.
            contents: the files' bytes.
            wait: wait for room instead of being turned away.
            bulk: let what comes meanwhile go first, for a while.
            given_up: whether the answer is waited for no more; asked before an image is decoded
                and before it is embedded.

        Raises:
            Overloaded: the queue is full.
            GivenUp: the answer is waited for no more.
            Unavailable: the inference threads are not running.
        """
        loaded = self._loaded(version)
        if loaded.serving is None and self._chooser.knows(loaded.encoder):
            loaded.prepare(self._chooser)
        preprocessing = loaded.encoder.preprocessing
        size = sum(map(len, contents))
        with self._metrics.stage.labels("admit").time():
            self._admit(len(contents), size, wait=wait, bulk=bulk)
        due = time.monotonic() + (BULK_PATIENCE_S if bulk else 0.0)
        items = [
            _Item(due, next(self._numbers), version, content, preprocessing, given_up, Future())
            for content in contents
        ]
        try:
            for item in items:
                self._undecoded.put((item.due, item.number, item))
            return [self._outcome(item) for item in items]
        finally:
            with self._room:
                self._images -= len(contents)
                self._prompt -= 0 if bulk else len(contents)
                self._bytes -= size
                self._count()
                self._room.notify_all()

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """Counts the time of a stage behind the network."""
        return self._metrics.stage.labels(name).time()

    def encoder(self, version: UUID) -> Encoder:
        """The encoder of a version, loaded if need be."""
        return self._loaded(version).encoder

    @property
    def runtime(self) -> str | None:
        """What computes the version that was warmed up; None: it is warming up."""
        loaded = self._encoders.get(self._warm_up) if self._warm_up else None
        return loaded.serving.runtime if loaded and loaded.serving else None

    def is_too_late(self, images: int) -> bool:
        """Whether the last of that many images would wait too long, at the speed of late."""
        return self._lateness(images) > 0

    def ailments(self) -> list[str]:
        """What is wrong with the threads; empty when all is well."""
        found = (worker.ailment(self._stall_s) for worker in self._workers)
        return [ailment for ailment in found if ailment is not None]

    def _loaded(self, version: UUID) -> _Loaded:
        with self._loading:
            if version not in self._encoders:
                self._encoders[version] = _Loaded(self._load(version).eval())
            self._encoders.move_to_end(version)
            while len(self._encoders) > self._keep:
                self._encoders.popitem(last=False)
            return self._encoders[version]

    def _dead(self) -> bool:
        return not all(worker.thread.is_alive() for worker in self._workers)

    def _admit(self, images: int, size: int, *, wait: bool, bulk: bool) -> None:
        share = BULK_SHARE if bulk else 1.0

        def fits() -> bool:
            return (
                self._images + images <= share * self._max_images
                and self._bytes + size <= share * self._max_bytes
                and (bulk or not self.is_too_late(self._prompt + images))
            )

        def admitted() -> bool:
            # What is larger than the queue goes through alone.
            alone = (self._images if bulk else self._prompt) == 0
            return self._stopping or alone or fits()

        with self._room:
            if wait:
                self._room.wait_for(lambda: admitted() or self._dead())
            if self._stopping or self._dead():
                raise Unavailable("the service is stopping or its threads have died", retry_after=5)
            if not admitted():
                raise self.overloaded(self._prompt + images, images)
            if not self._images:
                self._busy_since = time.monotonic()
            self._images += images
            self._prompt += 0 if bulk else images
            self._bytes += size
            self._count()

    def overloaded(self, images: int, refused: int = 1) -> Overloaded:
        """What is answered when that many images would wait, with the time to come again.

        Args:
            refused: how many of them are turned away by it; 1 where a body was not read.
        """
        self._metrics.rejected.inc(refused)
        return Overloaded(
            f"{self._images} images are waiting; send these again in a moment",
            retry_after=max(1, math.ceil(self._lateness(images))),
        )

    def _lateness(self, images: int) -> float:
        """Seconds by which that many images would wait too long; less than 0: they would not."""
        per_image = self._seconds / self._computed if self._computed else 0.0
        return images * per_image - CAUTION * self._max_delay_s

    def _count(self) -> None:
        self._metrics.waiting.set(self._images)
        self._metrics.waiting_bytes.set(self._bytes)

    def _outcome(self, item: _Item) -> Outcome:
        """Wait for an answer, but not for a thread that will never give one."""
        while True:
            try:
                outcome = item.outcome.result(timeout=1.0)
            except TimeoutError:
                if self._dead():
                    raise Unavailable("an inference thread has died", retry_after=5) from None
                continue
            except CancelledError:
                self._metrics.images.labels("given_up").inc()
                raise RequestCancelled from None
            failed = isinstance(outcome, Problem)
            self._metrics.images.labels("failed" if failed else "embedded").inc()
            return outcome

    def _decode_next(self, worker: _Worker) -> None:
        while (item := self._undecoded.get()[2]) is not None:
            if item.given_up():
                item.outcome.cancel()
                continue
            worker.busy_since = time.monotonic()
            try:
                with self._metrics.stage.labels("decode").time():
                    decoded = decode(item.content, item.preprocessing, max_pixels=self._max_pixels)
            except UnreadableImage as error:
                item.outcome.set_result(ImageNotDecodable(str(error)))
            except Exception as error:  # noqa: BLE001 - one image must not stop the thread
                item.outcome.set_result(ImageNotDecodable(f"decoding failed: {error}"))
            else:
                with self._handing:
                    heapq.heappush(self._ready, _Ready(item, decoded, time.monotonic()))
                    self._ring()
            worker.busy_since = None

    def _embed_ready(self, thread: int, worker: _Worker) -> None:
        compute_alone()
        if thread == 0:
            torch.set_num_threads(self._threads)
            self._has_threads.set()
            self._warm(worker)
        yields = False
        while (batch := self._next_batch(thread)) is not None:
            if not batch:
                continue
            worker.busy_since = time.monotonic()
            if not yields and self._computes_here(batch[0].item.version):
                yield_to_others()
                yields = True
            self._answer(batch, in_lane=thread > 0)
            self._learn_speed(len(batch))
            worker.busy_since = None

    def _warm(self, worker: _Worker) -> None:
        size, seconds = 1, 0.0
        while self._warm_up and size <= self._max_batch and not self._stopping:
            worker.busy_since = time.monotonic()
            serving = self._loaded(self._warm_up).prepare(self._chooser)
            if size == 1:
                give_back_memory()  # of the runtimes that were tried
            side = serving.preprocessing.crop
            images = torch.zeros(size, 3, side, side, dtype=torch.uint8)
            serving.embed(images)
            started = time.perf_counter()
            serving.embed(images)
            seconds = (time.perf_counter() - started) / size
            if serving.lanes:
                seconds = 1 / serving.lanes.images_per_s
                break  # tried in all sizes; together only images alone are computed
            size *= 2
        worker.busy_since = None
        with self._room:
            if seconds:
                self._seconds, self._computed = MEMORY_S, MEMORY_S / (UNMEASURED * seconds)
        self.when_warm()
        self.warm.set()
        log.info("warm", encoder=str(self._warm_up))

    def _learn_speed(self, images: int) -> None:
        """Look how long a batch took since the one before, or since there was work.

        Seconds and images are summed each for itself: lanes end at nearly the same time, so that
        one batch seems to have taken all of it and the others none.
        """
        now = time.monotonic()
        with self._room:
            seconds = now - max(self._busy_since, self._last_answer)
            kept = math.exp(-seconds / MEMORY_S)
            self._seconds = kept * self._seconds + seconds
            self._computed = kept * self._computed + images
            self._last_answer = now

    def _next_batch(self, thread: int) -> list[_Ready] | None:
        """What is ready and of one version, by what is due first.

        None when stopping; empty when nobody waits for what was ready.
        """
        with self._handing:
            while not self._may_take(thread):
                if self._stopping:
                    return None
                self._ring()  # another, if there is something that is not for this one
                self._idle.add(thread)
                self._bells[thread].wait()
                self._idle.discard(thread)
            lanes = self._lanes() if thread else None
            limit = lanes.batch if lanes else self._max_batch
            batch: list[_Ready] = []
            while (
                self._ready
                and len(batch) < limit
                and (not batch or self._ready[0].item.version == batch[0].item.version)
            ):
                ready = heapq.heappop(self._ready)
                if ready.item.given_up():
                    ready.item.outcome.cancel()
                else:
                    batch.append(ready)
            self._ring()
            return batch

    def _ring(self) -> None:
        """Wake a model thread that may take what is ready, if one is idle."""
        thread = next((idle for idle in sorted(self._idle) if self._may_take(idle)), None)
        if thread is not None:
            self._idle.discard(thread)
            self._bells[thread].notify()

    def _may_take(self, thread: int) -> bool:
        if not self._ready:
            return False
        if self._lanes() is None:
            return thread == 0
        return thread > 0 or self._images <= 1

    def _lanes(self) -> Streams | None:
        """Those of the version that is next; None also if it was not prepared yet."""
        loaded = self._encoders.get(self._ready[0].item.version)
        return loaded.serving.lanes if loaded and loaded.serving else None

    def _answer(self, batch: list[_Ready], *, in_lane: bool) -> None:
        """Embed a batch; when it fails, halve it until only the culprit fails."""
        try:
            vectors = self._forward(batch, in_lane)
        except Exception as error:  # noqa: BLE001 - whatever the network raises is the image's
            if len(batch) > 1:
                middle = len(batch) // 2
                self._answer(batch[:middle], in_lane=in_lane)
                self._answer(batch[middle:], in_lane=in_lane)
                return
            batch[0].item.outcome.set_result(
                InferenceFailed(f"the encoder failed on this image: {error}")
            )
            return
        finite = vectors.isfinite().all(dim=1).tolist()
        for (item, decoded, _), vector, good in zip(batch, vectors, finite, strict=True):
            item.outcome.set_result(
                Embedded(vector, decoded.media_type, decoded.width, decoded.height)
                if good
                else InferenceFailed("the encoder gave numbers that are not finite")
            )

    def _computes_here(self, version: UUID) -> bool:
        """Whether the thread that calls for embeddings computes them itself, on a CPU."""
        loaded = self._loaded(version)
        on_cpu = loaded.encoder.mean.device.type == "cpu"
        return on_cpu and loaded.serving is not None and loaded.serving.in_caller

    def _forward(self, batch: list[_Ready], in_lane: bool) -> Tensor:
        self._metrics.batch.observe(len(batch))
        now, queued = time.monotonic(), self._metrics.stage.labels("queue")
        for ready in batch:
            queued.observe(now - ready.since)
        with self._metrics.stage.labels("forward").time():
            serving = self._loaded(batch[0].item.version).prepare(self._chooser)
            pixels = torch.stack([ready.decoded.pixels for ready in batch])
            embed = serving.lanes.embed if in_lane and serving.lanes else serving.embed
            return embed(pixels).to(torch.float16)
