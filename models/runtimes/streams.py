"""Streams: batches computed at once, each by one thread."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import torch

from models.encoders import Encoder
from models.runtimes import Embed
from models.runtimes.trial import FEWEST_RUNS, SECONDS, samples

COMPUTING_NICENESS = 10  # a tenth of the weight of other threads, as Linux has it


class Streams(NamedTuple):
    """Batches that are computed at once, each by one thread, and none waits for another.

    Threads that share a batch wait for the slowest after every layer. Where one of them lost its
    core to a thread that decodes, that takes longer than the layer.
    """

    embed: Embed  # called by `number` threads at a time, in each of which torch has one thread
    number: int
    batch: int  # images of each with which they are fastest
    images_per_s: float  # then


def streams_beside(threads: int) -> int:
    """How many streams serve beside a model thread that has so many; 0: none are worth it.

    One more than there are threads: while one waits for the interpreter, its core has another.
    """
    return threads + 1 if threads > 1 else 0


def speed_of_streams(embed: Embed, encoder: Encoder, size: int, streams: int) -> float:
    """Images per second of all streams, in batches of one size."""
    side = encoder.preprocessing.crop
    images = samples(side, 1).expand(size, 3, side, side).contiguous()

    def compute() -> int:
        runs = 0
        while runs < FEWEST_RUNS or time.perf_counter() < started + SECONDS:
            embed(images)
            runs += 1
        return runs

    with ThreadPoolExecutor(streams, initializer=compute_alone) as threads:
        list(threads.map(embed, [images] * streams))  # what is set up lazily
        started = time.perf_counter()
        futures = [threads.submit(compute) for _ in range(streams)]
        runs = sum(future.result() for future in futures)
        return size * runs / (time.perf_counter() - started)


def compute_alone() -> int:
    """Let torch compute in the calling thread alone, and say how many threads it had.

    libgomp gives every thread that computes in parallel a team of its own. As soon as the teams
    have more threads than there are cores, they sleep between the layers of a network instead of
    spinning, which takes an image alone twice the time. So only one thread may have a team.
    """
    threads = torch.get_num_threads()  # only from here on has a thread a number of its own
    torch.set_num_threads(1)
    return threads


def compute_with(threads: int) -> None:
    """Let torch compute in the calling thread with so many; threads yet to come have one each.

    A team is woken by whatever is large enough, such as gathering a batch, and its threads then
    spin on cores that others need. So only who computes a network in its own thread needs one.
    """
    if torch.get_num_threads() == threads:
        return
    torch.set_num_threads(threads)
    if threads > 1:  # torch would give as many to every thread yet to come
        other = threading.Thread(target=torch.set_num_threads, args=(1,))
        other.start()
        other.join()


def yield_to_others() -> None:
    """Let the calling thread, and those that it starts, wait for threads that answer requests.

    A thread that computes in Python's sight should not, where it can be helped: while it waits for
    a core it may hold the interpreter, for which threads that answer then wait as well.
    """
    with suppress(OSError, AttributeError):  # where threads have no priority of their own
        thread = threading.get_native_id()
        nicer = os.getpriority(os.PRIO_PROCESS, thread) + COMPUTING_NICENESS
        os.setpriority(os.PRIO_PROCESS, thread, nicer)
