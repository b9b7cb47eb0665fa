"""Images per second over HTTP, beside the same work done in a loop without a server.

Both decode, resize and embed the same photos with as many threads; the loop decodes ahead while
the network runs. They take turns, so that a noisy machine disturbs both alike.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from app.cli.benchmark import (
    Request,
    Run,
    load,
    media_type,
    multipart,
    photos,
    pipeline,
    prepare,
    register,
)
from bench.harness import Server, arguments, finish
from models.encoders import pick_device

CONCURRENCY = (1, 8, 32)
BATCH = 16  # as HANDFUL_MAX_BATCH


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=Path, help="folder of photos instead of scikit-learn's")
    parser.add_argument("--encoder", default="efficientnet_lite:0")
    parser.add_argument("--repeats", type=int, default=5, help="after a round that warms up")
    options = parser.parse_args()
    bodies = photos(options.images, 64 if options.quick else 512)
    shapes: dict[str, list[Request]] = {
        "raw, 1 image": [Request(media_type(photo), photo, 1) for photo in bodies],
        "multipart, 16 images": [
            multipart(bodies[i : i + BATCH]) for i in range(0, len(bodies), BATCH)
        ],
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(Path(folder), encoder=options.encoder, max_queue_images="4096") as server,
    ):
        register(server.url, bodies)
        loop = _loop(options.encoder, bodies)
        repeats = 2 if options.quick else options.repeats
        measured = _measure(loop, shapes, server.port, repeats)
    _report(options, measured)


def _measure(
    loop: Callable[[], Run], shapes: dict[str, list[Request]], port: int, repeats: int
) -> dict[str, list[Run]]:
    measured: dict[str, list[Run]] = {}
    for repeat in range(repeats + 1):
        runs = {"in-process loop": loop()}
        for (name, requests), clients in itertools.product(shapes.items(), CONCURRENCY):
            runs[f"{name}, {clients} at a time"] = load(port, requests, clients)
        for name, run in runs.items():
            if repeat:  # the first round warms up
                measured.setdefault(name, []).append(run)
                print(f"{name:<36}{run.images_per_s:>8.1f} images/s", flush=True)
    return measured


def _loop(spec: str, bodies: Sequence[bytes]) -> Callable[[], Run]:
    """What the service does to an image, without a service."""
    serving = prepare(spec, "auto", BATCH)
    print(f"both compute with {serving.runtime} on {pick_device('auto')}")

    def run() -> Run:
        started = time.perf_counter()
        pipeline(serving, bodies, BATCH, os.cpu_count() or 1)
        return Run(len(bodies) / (time.perf_counter() - started), [])

    return run


def _report(options: argparse.Namespace, measured: dict[str, list[Run]]) -> None:
    loop = statistics.median(run.images_per_s for run in measured["in-process loop"])
    print(
        f"\n{'median [lowest, highest]':<38}{'images/s':>22}{'ratio':>7}{'p50 ms':>9}{'p99 ms':>9}"
    )
    rows: dict[str, dict[str, float]] = {}
    for name, runs in measured.items():
        speeds = [run.images_per_s for run in runs]
        latencies = sorted(ms for run in runs for ms in run.latencies_ms)
        row = {
            "images_per_s": statistics.median(speeds),
            "lowest": min(speeds),
            "highest": max(speeds),
            "ratio": statistics.median(speeds) / loop,
        }
        if latencies:
            row["p50_ms"] = latencies[len(latencies) // 2]
            row["p99_ms"] = latencies[int(len(latencies) * 0.99)]
        rows[name] = {key: round(value, 3) for key, value in row.items()}
        print(
            f"{name:<38}{row['images_per_s']:>8.1f} [{row['lowest']:.1f}, {row['highest']:.1f}]"
            f"{row['ratio']:>7.2f}{row.get('p50_ms', 0):>9.0f}{row.get('p99_ms', 0):>9.0f}"
        )
    raw, many = (
        rows[f"{shape}, 32 at a time"] for shape in ("raw, 1 image", "multipart, 16 images")
    )
    headline = (
        f"32 at a time: {raw['images_per_s']:.0f} images/s raw ({raw['ratio']:.2f} of the loop), "
        f"{many['images_per_s']:.0f} in 16s ({many['ratio']:.2f}); the loop does {loop:.0f}"
    )
    finish(options, {"runs": rows}, headline, kept=raw["ratio"] >= 0.8 and many["ratio"] >= 0.8)


if __name__ == "__main__":
    main()
