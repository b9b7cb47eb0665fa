"""What requests do to each other: who waits for whom, what is computed for nobody, what is lost.

- Overtaking: how long one client waits for each of its photos, alone and while four connections
  fill the pool as fast as they can, and what the pool gets meanwhile.
- Hanging up: of clients that leave while they wait, how many photos are computed all the same.
- Agreement: the same photos, one after the other and by many clients at once; the largest
  difference of a cosine to a label.
- Stopping: SIGTERM under load. A request whose connection was accepted is lost if it gets no
  answer; one that finds nobody listening is not, since it can go elsewhere.
"""

import itertools
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import httpx
import torch
from prometheus_client.parser import text_string_to_metric_families

from app.cli.benchmark import PATH, PROJECT, Request, load, multipart, photos, register
from bench.figures import percentiles, timed
from bench.harness import ENCODER, PHOTOS, Options, Result, option, run
from bench.processes import Server, in_background, new_server, on_the_wire, single, wait_for
from handful.client import Handful

POOL = f"/v1/projects/{PROJECT}/pool"
BULK_CONNECTIONS, BULK_FILES = 4, 32
PAUSE_S = 0.05  # of the one client between its photos
WAITING = 64  # clients that wait when others hang up
LEAVING = 100
AT_ONCE = (8, 32, 128)
STOPPING_CLIENTS = 16
SAME = 1e-3  # of a cosine
BESIDE = 3.0  # times as long as alone, at most, a client waits beside uploads in bulk


def measure(options: Options) -> Result:
    """Measure the four of one server."""
    bodies = photos(options.images, 256)
    requests = [single(photo) for photo in bodies]
    figures: dict[str, dict[str, Any]] = {}
    with new_server(encoder=options.encoder, drain_seconds="1") as server:
        register(server.url, bodies)
        load(server.port, requests, 8)  # warms up
        figures["overtaking"] = _overtaking(server.port, requests, bodies, options.seconds)
        figures["hanging_up"] = _hanging_up(server, requests)
        figures["agreement"] = _agreement(server.url, bodies[:128])
        figures["stopping"] = _stopping(server, requests)
    overtaking, nobody = figures["overtaking"], figures["hanging_up"]["computed_for_nobody"]
    differ = max(value for name, value in figures["agreement"].items() if name != "photos")
    answers = figures["stopping"]["answers"]
    lost = sum(count for outcome, count in answers.items() if outcome != "200")
    headline = (
        f"a client waits {overtaking['alone_p50_ms']:.0f} ms alone, "
        f"{overtaking['beside_bulk_p50_ms']:.0f} (p99 {overtaking['beside_bulk_p99_ms']:.0f}) "
        f"beside uploads in bulk, which keep "
        f"{overtaking['bulk_beside_a_client_photos_per_s'] / overtaking['bulk_photos_per_s']:.2f} "
        f"of their speed; {nobody:.0f} of {LEAVING} photos computed for nobody; cosines differ by "
        f"{differ:.0e} at most; {lost} of {sum(answers.values())} requests lost at SIGTERM"
    )
    in_time = overtaking["beside_bulk_p50_ms"] <= BESIDE * overtaking["alone_p50_ms"]
    return Result(figures, headline, in_time and differ <= SAME and not lost)


def _overtaking(
    port: int, requests: Sequence[Request], bodies: Sequence[bytes], seconds: float
) -> dict[str, float]:
    numbers = itertools.count()
    sent: list[int] = []  # photos of each request in bulk

    def fill_pool(stop: threading.Event) -> None:
        while not stop.is_set():
            part = [  # other files of the same pictures, as what is behind their end tells
                bodies[n % len(bodies)] + str(n).encode()
                for n in itertools.islice(numbers, BULK_FILES)
            ]
            load(port, [multipart(part)], 1, POOL)
            sent.append(len(part))

    bulk = [fill_pool] * BULK_CONNECTIONS
    alone = _wait_times(port, requests, seconds)
    with in_background(bulk):
        time.sleep(seconds)
        in_bulk = sum(sent) / seconds
    with in_background(bulk):
        time.sleep(1.0)  # the queue fills
        before = sum(sent)
        beside = _wait_times(port, requests, seconds)
        in_bulk_beside = (sum(sent) - before) / seconds
    return {
        **percentiles(alone, 50, 99, name="alone_p{}_ms"),
        **percentiles(beside, 50, 99, name="beside_bulk_p{}_ms"),
        "answers_beside_bulk": len(beside),
        "bulk_photos_per_s": round(in_bulk, 1),
        "bulk_beside_a_client_photos_per_s": round(in_bulk_beside, 1),
    }


def _wait_times(port: int, requests: Sequence[Request], seconds: float) -> list[float]:
    """Milliseconds that a client waits for each photo, for a while."""
    milliseconds: list[float] = []
    turns, until = itertools.cycle(requests), time.monotonic() + seconds
    while time.monotonic() < until:
        milliseconds += load(port, [next(turns)], 1).latencies_ms
        time.sleep(PAUSE_S)
    return milliseconds


def _hanging_up(server: Server, requests: Sequence[Request]) -> dict[str, float]:
    """Clients leave while others, that came before them, are answered."""
    before = _metric(server.url, "handful_batch_images_sum")
    turns = itertools.cycle(requests)
    stay = list(itertools.islice(turns, WAITING))
    with in_background([lambda _: load(server.port, stay, WAITING)]), ExitStack() as leaving:
        for request in itertools.islice(turns, LEAVING):  # a photo is sent, and no answer read
            connection = socket.create_connection(("127.0.0.1", server.port))
            leaving.enter_context(connection).sendall(on_the_wire(request))
    wait_for(lambda: not _metric(server.url, "handful_queue_images"), patience_s=60)
    computed = _metric(server.url, "handful_batch_images_sum") - before - WAITING
    return {
        "clients_that_stay": WAITING,
        "clients_that_leave": LEAVING,
        "computed_for_nobody": max(0.0, computed),
    }


def _metric(url: str, name: str) -> float:
    """What the service tells of itself, summed up over labels."""
    text = httpx.get(f"{url}/metrics", timeout=60, trust_env=False).text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    return sum(sample.value for sample in samples if sample.name == name)


def _agreement(url: str, bodies: Sequence[bytes]) -> dict[str, Any]:
    figures: dict[str, Any] = {"photos": len(bodies)}
    with Handful(url) as client:

        def cosines(photo: bytes) -> list[float]:
            (prediction,) = client.classify(PROJECT, [photo], nearest=0).predictions
            labels = sorted(prediction.probabilities, key=lambda label: label.label)
            return [label.cosine for label in labels]

        alone = torch.tensor([cosines(photo) for photo in bodies])
        for clients in AT_ONCE:
            with ThreadPoolExecutor(clients) as threads:
                together = torch.tensor(list(threads.map(cosines, bodies)))
            difference = round(float((together - alone).abs().max()), 6)
            figures[f"largest_difference_of_{clients}_at_once"] = difference
    return figures


def _stopping(server: Server, requests: Sequence[Request]) -> dict[str, Any]:
    """Clients send one photo after the other until nobody listens any more."""
    answers: list[str] = []
    url = f"{server.url}{PATH}"

    def send(number: int, _: threading.Event) -> None:
        with httpx.Client(timeout=120, trust_env=False) as client:
            for request in itertools.cycle(requests[number:]):
                headers = {"Content-Type": request.content_type, "Connection": "close"}
                try:
                    answer = client.post(url, content=request.body, headers=headers)
                except httpx.ConnectError:
                    return
                except httpx.TransportError as error:
                    answers.append(f"lost: {type(error).__name__}")
                else:
                    answers.append(str(answer.status_code))

    with in_background([partial(send, n) for n in range(STOPPING_CLIENTS)]):
        time.sleep(2.0)
        _, seconds = timed(partial(server.stop, signal.SIGTERM))
    return {"seconds_until_the_end": round(seconds, 1), "answers": dict(Counter(answers))}


if __name__ == "__main__":
    seconds = option("--seconds", 30.0, quick=5.0, help="of each part of overtaking")
    run(measure, PHOTOS, ENCODER, seconds)
