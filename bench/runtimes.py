"""Runtimes side by side: images a second, agreement, load time and memory, on the same weights.

Each measurement has a process of its own, and runtimes take turns. Agreement is the lowest cosine
of an embedding of a photo to that of PyTorch in float32. What the hardware can do is told by one
large product of matrices in PyTorch, in float32 on a CPU and in float16 on CUDA; a runtime with
better kernels than PyTorch's can be ahead of it. Streams compute several batches at once, each on
one core.
"""

import itertools
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from app.cli.benchmark import photos
from bench.figures import grouped, spread, timed
from bench.harness import Options, Result, option, run
from bench.processes import memory
from bench.tasks import alone
from models.encoders import Encoder, EncoderUnavailable, pick_device
from models.encoders.specs import parse
from models.images import decode
from models.runtimes import Resources, RuntimeUnavailable
from models.runtimes.folding import fold
from models.runtimes.kinds import runtimes
from models.runtimes.streams import speed_of_streams, streams_beside
from models.runtimes.trial import AGREEMENT, speed

SIZES = (1, 8, 32)  # of batches
PHOTOS = 64
MATRIX = {"cpu": 2048, "cuda": 8192}  # rows of the product


def measure(options: Options) -> Result:
    """Let the runtimes take turns with each encoder."""
    device, threads = str(pick_device("auto")), os.cpu_count() or 1
    turns = itertools.product(range(options.repeats), options.encoders, runtimes)
    with tempfile.TemporaryDirectory() as folder:
        runs = grouped(
            ((encoder, runtime), alone(prepare, encoder, runtime, device, threads, Path(folder)))
            for _, encoder, runtime in turns
        )
    product = alone(_speed_of_a_product, device, threads)
    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"{threads} threads"
    rows: dict[str, dict[str, Any]] = {}
    best: dict[str, float] = {}
    operations = {encoder: _operations(encoder) for encoder in options.encoders}
    for (encoder, runtime), results in runs.items():
        rows[f"{encoder} {runtime}"] = row = _row(results, operations[encoder], product)
        if row.get("agreement", 0.0) >= AGREEMENT:
            best[runtime] = row["images_per_s"][str(max(SIZES))]["median"]
    speeds = ", ".join(f"{runtime} {rate:.0f}" for runtime, rate in best.items())
    return Result(
        {"device": name, "gflops_of_a_product": round(product / 1e9, 1), "runs": rows},
        f"{name}, {options.encoders[-1]}, batches of {max(SIZES)}: {speeds} images/s",
        all(row.get("agreement", 1.0) >= AGREEMENT for row in rows.values()),
    )


def prepare(
    spec: str, runtime: str, device: str, threads: int, cache: Path
) -> dict[str, Any] | str:
    """Prepare a runtime and time it; or why there is none."""
    torch.set_num_threads(threads)
    encoder = fold(_build(spec)).to(device)
    pictures = torch.stack(
        [decode(photo, encoder.preprocessing).pixels for photo in photos(None, PHOTOS)]
    )
    expected = encoder.embed(pictures)
    resources = Resources(threads=threads, batch=max(SIZES), cache=cache)
    before, started = _memory(device), time.perf_counter()
    try:
        embed = runtimes[runtime]().prepare(encoder, resources)
    except RuntimeUnavailable as error:
        return str(error)
    load_s = time.perf_counter() - started
    agreement = float((embed(pictures[: max(SIZES)]) * expected[: max(SIZES)]).sum(dim=1).min())
    rates = {str(size): speed(embed, encoder, size) for size in SIZES}
    if device == "cpu" and (number := streams_beside(threads)):
        alone = replace(resources, threads=1, streams=number)
        embed = runtimes[runtime]().prepare(encoder, alone)
        for size in SIZES:
            rates[f"streams of {size}"] = speed_of_streams(embed, encoder, size, number)
    memory_mib = _memory(device) - before  # beyond that of the encoder in PyTorch
    return {"rates": rates, "agreement": agreement, "load_s": load_s, "memory_mib": memory_mib}


def _build(spec: str) -> Encoder:
    """With random weights where its own cannot be had: they are as fast."""
    _, architecture = parse(spec)
    torch.manual_seed(0)
    try:
        return architecture.build().eval()
    except EncoderUnavailable:
        return architecture.build(pretrained=False).eval()


def _memory(device: str) -> float:
    """MiB of this process; on CUDA those of the device."""
    if device.startswith("cuda"):
        return torch.cuda.memory_reserved() / 2**20
    return memory("VmRSS")


def _speed_of_a_product(device: str, threads: int) -> float:
    """Floating-point operations per second."""
    torch.set_num_threads(threads)
    on_cuda = device.startswith("cuda")
    rows = MATRIX["cuda" if on_cuda else "cpu"]
    matrix = torch.randn(rows, rows, dtype=torch.float16 if on_cuda else torch.float32).to(device)
    # A number that is read waits for the device.
    seconds = [timed(lambda: float((matrix @ matrix)[0, 0]))[1] for _ in range(10)]
    return 2 * rows**3 / statistics.median(seconds[2:])


def _operations(spec: str) -> float:
    """Floating-point operations of an image."""
    encoder = fold(_build(spec))
    side = encoder.preprocessing.crop
    with FlopCounterMode(display=False) as counter:
        encoder.embed(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    return float(counter.get_total_flops())


def _row(runs: list[Any], operations: float, product: float) -> dict[str, Any]:
    """Figures of a runtime, or why it was refused."""
    refusals = [reason for reason in runs if isinstance(reason, str)]
    if refusals:
        return {"refusal": refusals[0]}
    speeds = {}
    for size in runs[0]["rates"]:
        rates = [run["rates"][size] for run in runs]
        share = round(statistics.median(rates) * operations / product, 4)
        speeds[size] = spread(rates, 1) | {"of_the_product": share}
    return {
        "images_per_s": speeds,
        "agreement": round(min(run["agreement"] for run in runs), 6),
        "first_load_s": round(runs[0]["load_s"], 2),
        "later_load_s": round(statistics.median(run["load_s"] for run in runs[1:]), 2),
        "memory_mib": round(statistics.median(run["memory_mib"] for run in runs)),
    }


if __name__ == "__main__":
    encoders = option("--encoders", ["efficientnet_lite:0"], nargs="+")
    run(measure, encoders, option("--repeats", 5, quick=2))
