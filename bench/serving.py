"""Images per second over HTTP, beside the same work done in a loop without a server.

Both decode, resize and embed the same photos with as many threads; the loop decodes ahead while
the network runs. They take turns, so that a noisy machine disturbs both alike.
"""

import itertools
import os
from collections.abc import Sequence
from functools import partial

from app.cli.benchmark import Run, load, multipart, photos, pipeline, prepare, register
from bench import null_network
from bench.figures import percentiles, spread, timed
from bench.harness import ENCODER, NETWORK, PHOTOS, Options, Result, option, run
from bench.processes import new_server, single
from models.encoders import pick_device
from models.runtimes.selector import Serving

CONCURRENCY = (1, 8, 32)
BATCH = 16  # as HANDFUL_MAX_BATCH
GOALS = {  # shares of the loop
    ("raw, 1 image", 1): 0.6,
    ("raw, 1 image", 8): 0.8,
    ("raw, 1 image", 32): 0.8,
    ("multipart, 16 images", 8): 0.95,
    ("multipart, 16 images", 32): 0.95,
}


def measure(options: Options) -> Result:
    """Take turns, loop and service."""
    bodies = photos(options.images, 64 if options.quick else 512)
    batches = [bodies[i : i + BATCH] for i in range(0, len(bodies), BATCH)]
    shapes = {
        "raw, 1 image": [single(photo) for photo in bodies],
        "multipart, 16 images": [multipart(batch) for batch in batches],
    }
    measured: dict[str, list[Run]] = {}
    settings = {"encoder": options.encoder, "max_queue_images": "4096", "network": options.network}
    with new_server(**settings) as server:
        register(server.url, bodies)
        serving = prepare(options.encoder, null_network.use(options.network), BATCH)
        print(f"both compute with {serving.runtime} on {pick_device('auto')}")
        works = {"in-process loop": partial(_loop, serving, bodies)}
        for (name, requests), clients in itertools.product(shapes.items(), CONCURRENCY):
            works[f"{name}, {clients} at a time"] = partial(load, server.port, requests, clients)
        for repeat in range(options.repeats + 1):
            for name, work in works.items():
                result = work()
                if repeat:  # the first round warms up
                    measured.setdefault(name, []).append(result)
                    print(f"{name:<36}{result.images_per_s:>8.1f} images/s", flush=True)
    return _report(measured)


def _loop(serving: Serving, bodies: Sequence[bytes]) -> Run:
    """What the service does to an image, without a service."""
    _, seconds = timed(partial(pipeline, serving, bodies, BATCH, os.cpu_count() or 1))
    return Run(len(bodies) / seconds, [])


def _report(measured: dict[str, list[Run]]) -> Result:
    rows: dict[str, dict[str, float]] = {}
    for name, runs in measured.items():
        rows[name] = spread([run.images_per_s for run in runs], median="images_per_s")
        if latencies := [ms for run in runs for ms in run.latencies_ms]:
            rows[name] |= percentiles(latencies, 50, 99, name="p{}_ms")
    loop = rows["in-process loop"]["images_per_s"]
    for row in rows.values():
        row["ratio"] = round(row["images_per_s"] / loop, 3)
    raw, many = (
        rows[f"{shape}, 32 at a time"] for shape in ("raw, 1 image", "multipart, 16 images")
    )
    headline = (
        f"32 at a time: {raw['images_per_s']:.0f} images/s raw ({raw['ratio']:.2f} of the loop), "
        f"{many['images_per_s']:.0f} in 16s ({many['ratio']:.2f}); the loop does {loop:.0f}"
    )
    goal_met = all(
        rows[f"{shape}, {clients} at a time"]["ratio"] >= least
        for (shape, clients), least in GOALS.items()
    )
    return Result({"runs": rows}, headline, goal_met)


if __name__ == "__main__":
    repeats = option("--repeats", 5, quick=2, help="after a round that warms up")
    run(measure, PHOTOS, ENCODER, NETWORK, repeats)
