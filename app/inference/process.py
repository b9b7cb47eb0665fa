"""What is set for the whole process that computes: memory and garbage collection."""

import ctypes
import gc
from contextlib import suppress


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


def look_past_what_stays() -> None:
    """Leave what there is now out of garbage collection, on this whole process.

    What libraries make at the start are a million objects, which stay. To look through them takes
    half a second, every few seconds under load, and meanwhile nobody is answered.
    """
    gc.collect()
    gc.freeze()
