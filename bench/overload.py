"""Four times as many requests as the service can answer: what it still answers, and how soon.

Requests of one image arrive at random times (a Poisson process), whether or not earlier ones were
answered. Goodput is what was answered well per second of the load, beside the capacity: what 32
clients get that wait for each answer. The client computes on the same cores, and so do refusals:
what was left of the machine bounds the goodput, and is told beside it.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from app.cli.benchmark import PATH, Request, load, media_type, photos, register
from bench.harness import Server, arguments, cpu_seconds, finish, memory

TIMES = 4  # the capacity
PHOTOS = 256
GOODPUT = 0.95  # of the capacity
REFUSAL_MS = 20.0


class Answer(NamedTuple):
    """What came of a request."""

    sent: float  # seconds from the start of the load
    seconds: float  # until the answer was read
    status: int
    retry_after: bool


def main() -> None:
    """Run the benchmark."""
    options = _options()
    bodies = photos(options.images, PHOTOS)
    requests = [Request(media_type(photo), photo, 1) for photo in bodies]
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(
            Path(folder), encoder=options.encoder, max_delay_seconds=str(options.delay)
        ) as server,
    ):
        assert server.pid
        register(server.url, bodies)
        load(server.port, requests, clients=32)
        with _cores(server.pid) as at_capacity:
            capacity = statistics.median(
                load(server.port, requests, clients=32).images_per_s for _ in range(3)
            )
        before, rate = memory("VmRSS", server.pid), TIMES * capacity
        with _cores(server.pid) as under_load:
            answers = asyncio.run(_overload(server.port, requests, rate, options.seconds))
        after = memory("VmRSS", server.pid)
        again = load(server.port, requests, clients=32).images_per_s
    cores = {"at_capacity": at_capacity, "under_load": under_load}
    _report(options, capacity, again, answers, [round(before), round(after)], cores)


@contextmanager
def _cores(server: int) -> Iterator[dict[str, float]]:
    """How many cores the client and the server keep busy, known at the end."""
    found: dict[str, float] = {}
    started, theirs, own = time.perf_counter(), cpu_seconds(server), time.process_time()
    yield found
    seconds = time.perf_counter() - started
    found["server"] = round((cpu_seconds(server) - theirs) / seconds, 2)
    found["client"] = round((time.process_time() - own) / seconds, 2)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=Path, help="folder of photos instead of scikit-learn's")
    parser.add_argument("--encoder", default="efficientnet_lite:0")
    parser.add_argument("--delay", type=float, default=2.0, help="HANDFUL_MAX_DELAY_SECONDS")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the load")
    options = parser.parse_args()
    if options.quick:
        options.seconds = 10.0
    return options


async def _overload(
    port: int, requests: Sequence[Request], rate: float, seconds: float
) -> list[Answer]:
    """Send requests at random times, `rate` a second on average."""
    chance, tasks = random.Random(0), []
    started, due, number = time.perf_counter(), 0.0, 0
    while due < seconds:
        await asyncio.sleep(max(0.0, due - (time.perf_counter() - started)))
        request = requests[number % len(requests)]
        tasks.append(asyncio.create_task(_send(port, request, started)))
        number += 1
        due += chance.expovariate(rate)
    return list(await asyncio.gather(*tasks))


async def _send(port: int, request: Request, started: float) -> Answer:
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Content-Type: {request.content_type}\r\nContent-Length: {len(request.body)}\r\n\r\n"
    )
    sent = time.perf_counter()
    status, retry_after = 0, False
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + request.body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status, retry_after = int(answer.split()[1]), "\nretry-after:" in answer
        await reader.read()
        writer.close()
    except (OSError, asyncio.IncompleteReadError):
        pass  # no answer: status 0
    return Answer(sent - started, time.perf_counter() - sent, status, retry_after)


def _report(
    options: argparse.Namespace,
    capacity: float,
    again: float,
    answers: Sequence[Answer],
    memory_mib: list[int],
    cores: dict[str, dict[str, float]],
) -> None:
    good = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status == 429]
    # From when the queue is full to when the load ends.
    steady = [
        answer for answer in good if options.delay < answer.sent + answer.seconds <= options.seconds
    ]
    goodput = len(steady) / (options.seconds - options.delay)
    result = {
        "capacity_images_per_s": round(capacity, 1),
        "capacity_afterwards": round(again, 1),
        "requests": len(answers),
        "answered": len(good),
        "refused": len(refused),
        "refused_with_retry_after": sum(answer.retry_after for answer in refused),
        "others": len(answers) - len(good) - len(refused),
        "goodput_share": round(goodput / capacity, 3),
        "answered_ms": _milliseconds(good),
        "refused_ms": _milliseconds(refused),
        "memory_mib": memory_mib,
        "cores": cores,
    }
    for key, value in result.items():
        print(f"{key:<28}{value}")
    late, soon = _milliseconds(good)["p99"], _milliseconds(refused)["p99"]
    headline = (
        f"at {TIMES} times the capacity of {capacity:.0f} images/s: "
        f"goodput {goodput / capacity:.2f} of it, "
        f"answers within {late:.0f} ms (p99; {1000 * options.delay:.0f} allowed), refusals "
        f"within {soon:.0f} ms (p99), {result['others']} other failures"
    )
    kept = (
        goodput >= GOODPUT * capacity
        and late <= 1000 * options.delay
        and soon <= REFUSAL_MS
        and not result["others"]
    )
    finish(options, result, headline, kept)


def _milliseconds(answers: Sequence[Answer]) -> dict[str, float]:
    times = sorted(1000 * answer.seconds for answer in answers) or [0.0]
    return {
        f"p{percent}": round(times[int(len(times) * percent / 100 - 1e-9)], 1)
        for percent in (50, 99, 100)
    }


if __name__ == "__main__":
    main()
