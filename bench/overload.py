"""Four times as many requests as the service can answer: what it still answers, and how soon.

Requests of one image arrive at random times (a Poisson process), whether or not earlier ones were
answered. Goodput is what was answered well per second of the load, beside the capacity: what 32
clients get that wait for each answer. The client computes on the same cores, and so do refusals:
what was left of the machine bounds the goodput, and is told beside it.
"""

import asyncio
import os
import random
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from app.cli.benchmark import Request, load, photos, register
from bench.figures import percentiles
from bench.harness import ENCODER, NETWORK, PHOTOS, Options, Result, option, run
from bench.processes import cores, memory, new_server, on_the_wire, single

TIMES = 4  # the capacity
MAX_DELAY_S = 2.0  # that a request may wait
GOODPUT = 0.9  # of the capacity
REFUSAL_MS = 150.0  # with the client on the same cores


class Answer(NamedTuple):
    """What came of a request."""

    sent: float  # seconds from the start of the load
    seconds: float  # until the answer was read
    status: int
    retry_after: bool


def measure(options: Options) -> Result:
    """Find the capacity, send more, and see whether the capacity comes back."""
    bodies = photos(options.images, 256)
    requests = [single(photo) for photo in bodies]
    settings = {"encoder": options.encoder, "max_delay_seconds": str(MAX_DELAY_S)}
    with new_server(**settings, network=options.network) as server:
        register(server.url, bodies)
        load(server.port, requests, clients=32)
        both = {"server": server.pid, "client": os.getpid()}
        with cores(**both) as at_capacity:
            capacity = statistics.median(
                load(server.port, requests, clients=32).images_per_s for _ in range(3)
            )
        before, rate = memory("VmRSS", server.pid), TIMES * capacity
        with cores(**both) as under_load:
            answers = asyncio.run(_overload(server.port, requests, rate, options.seconds))
        after = memory("VmRSS", server.pid)
        afterwards = load(server.port, requests, clients=32).images_per_s
    good = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status == 429]
    # From when the queue is full to when the load ends.
    steady = [a for a in good if MAX_DELAY_S < a.sent + a.seconds <= options.seconds]
    goodput = len(steady) / (options.seconds - MAX_DELAY_S)
    failures = len(answers) - len(good) - len(refused)
    answered_ms, refused_ms = (
        percentiles([1000 * answer.seconds for answer in part] or [0.0], 50, 99, 100)
        for part in (good, refused)
    )
    figures = {
        "capacity_images_per_s": round(capacity, 1),
        "capacity_afterwards": round(afterwards, 1),
        "requests": len(answers),
        "answered": len(good),
        "refused": len(refused),
        "refused_with_retry_after": sum(answer.retry_after for answer in refused),
        "others": failures,
        "goodput_share": round(goodput / capacity, 3),
        "answered_ms": answered_ms,
        "refused_ms": refused_ms,
        "memory_mib": [round(before), round(after)],
        "cores": {"at_capacity": at_capacity, "under_load": under_load},
    }
    late, soon = answered_ms["p99"], refused_ms["p99"]
    headline = (
        f"at {TIMES} times the capacity of {capacity:.0f} images/s: "
        f"goodput {goodput / capacity:.2f} of it, "
        f"answers within {late:.0f} ms (p99; {1000 * MAX_DELAY_S:.0f} allowed), refusals "
        f"within {soon:.0f} ms (p99), {failures} other failures"
    )
    in_time = late <= 1000 * MAX_DELAY_S and soon <= REFUSAL_MS
    goal_met = goodput >= GOODPUT * capacity and in_time and not failures
    return Result(figures, headline, goal_met)


async def _overload(
    port: int, requests: Sequence[Request], rate: float, seconds: float
) -> list[Answer]:
    """Send requests at random times, `rate` a second on average."""
    generator, tasks = random.Random(0), []
    started, due, number = time.perf_counter(), 0.0, 0
    while due < seconds:
        await asyncio.sleep(max(0.0, due - (time.perf_counter() - started)))
        request = requests[number % len(requests)]
        tasks.append(asyncio.create_task(_send(port, request, started)))
        number += 1
        due += generator.expovariate(rate)
    return list(await asyncio.gather(*tasks))


async def _send(port: int, request: Request, started: float) -> Answer:
    sent = time.perf_counter()
    status, retry_after = 0, False
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(on_the_wire(request))
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status, retry_after = int(answer.split()[1]), "\nretry-after:" in answer
        await reader.read()
        writer.close()
    except (OSError, asyncio.IncompleteReadError):
        pass  # no answer: status 0
    return Answer(sent - started, time.perf_counter() - sent, status, retry_after)


if __name__ == "__main__":
    run(
        measure, PHOTOS, ENCODER, NETWORK, option("--seconds", 60.0, quick=10.0, help="of the load")
    )
