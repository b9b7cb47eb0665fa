"""The process that computes: its end, its memory, its garbage collection, watched threads."""

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from app.logs import logger

log = logger("handful.inference")


class WatchedThread(threading.Thread):
    """A thread whose death or standstill can be seen from outside.

    Args:
        name: of the thread.
        work: what it does, and says in `busy_since` when it began what must not take long.
    """

    def __init__(self, name: str, work: Callable[["WatchedThread"], None]) -> None:
        super().__init__(name=name, daemon=True)
        self.busy_since: float | None = None  # by time.monotonic(); None: it waits
        self._work = work
        self._error: BaseException | None = None

    def run(self) -> None:
        """Work; whatever ends it is remembered and written to the log."""
        try:
            self._work(self)
        except BaseException as error:
            self._error = error
            log.exception("thread ended", thread=self.name, exc_info=error)

    def ailment(self, stall_s: float) -> str | None:
        """What is wrong with the thread; None when all is well.

        Args:
            stall_s: from when on a thread that is busy is taken to stand still.
        """
        if not self.is_alive():
            return f"thread {self.name} has ended: {self._error!r}"
        since = self.busy_since
        if since is not None and time.monotonic() - since > stall_s:
            return f"thread {self.name} has been busy for {time.monotonic() - since:.0f} s"
        return None


def die_with_parent(how: signal.Signals) -> None:
    """Have this process, which `multiprocessing` started, end as soon as its parent has ended.

    On Linux the kernel sees to it, even where this process stands still, when the process ends that
    it was forked from; that is not the parent of a process that came from a fork server.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        raise ValueError("this process has no parent that waits for it")
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, how)

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), how)

    threading.Thread(target=watch, name="watches the parent", daemon=True).start()


def keep_freed_memory() -> None:
    """Let glibc reuse the memory of one forward pass for the next, on this whole process.

    By default it returns large blocks to the kernel at once, and page faults then take a third of
    the time of a batch. One arena, since those of threads cannot hold blocks that large.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return  # another C library
    m_trim_threshold, m_mmap_threshold, m_arena_max = -1, -3, -8
    mallopt(m_mmap_threshold, 1 << 30)
    mallopt(m_trim_threshold, (1 << 31) - 1)
    mallopt(m_arena_max, 1)


def give_back_memory() -> None:
    """Return what is free now to the kernel, where it is kept otherwise."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextmanager
def uncollected() -> Iterator[None]:
    """Leave garbage alone while libraries load: to look for it would take a fifth of that time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def look_past_what_stays() -> None:
    """Leave what there is now out of garbage collection, on this whole process.

    What libraries make at the start are a million objects, which stay. To look through them takes
    half a second, every few seconds under load, and meanwhile nobody is answered.
    """
    gc.collect()
    gc.freeze()
