"""Runtimes side by side: images a second, agreement, load time and memory, on the same weights.

Each measurement has a process of its own, and runtimes take turns. Agreement is the lowest cosine
of an embedding of a photo to that of PyTorch in float32. What the hardware can do is told by one
large product of matrices in PyTorch, in float32 on a CPU and in float16 on CUDA; a runtime with
better kernels than PyTorch's can be ahead of it. Lanes compute several batches at once, each on one
core.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from app.cli.benchmark import photos
from bench.harness import arguments, finish
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


class Task(NamedTuple):
    """One runtime with one encoder."""

    encoder: str
    runtime: str
    device: str
    threads: int
    cache: Path


class Run(NamedTuple):
    """One measurement."""

    images_per_s: dict[str, float]  # by size of batch, and in lanes
    agreement: float
    load_s: float
    memory_mib: float  # beyond that of the encoder in PyTorch


def main() -> None:
    """Run the benchmark."""
    options = _options()
    device = str(pick_device(options.device))
    context = multiprocessing.get_context("spawn")
    measured: dict[str, dict[str, list[Run | str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2 if options.quick else options.repeats):
            for encoder in options.encoders:
                for runtime in runtimes:
                    task = Task(encoder, runtime, device, options.threads, Path(folder))
                    with context.Pool(1) as alone:
                        run = alone.apply(measure, (task,))
                    measured.setdefault(encoder, {}).setdefault(runtime, []).append(run)
    with context.Pool(1) as alone:
        product = alone.apply(_speed_of_a_product, (device, options.threads))
    _report(options, device, product, measured)


def measure(task: Task) -> Run | str:
    """Prepare a runtime and time it; or why there is none."""
    torch.set_num_threads(task.threads)
    encoder = fold(_build(task.encoder)).to(task.device)
    pictures = torch.stack(
        [decode(photo, encoder.preprocessing).pixels for photo in photos(None, PHOTOS)]
    )
    expected = encoder.embed(pictures)
    resources = Resources(threads=task.threads, batch=max(SIZES), cache=task.cache)
    held, started = _memory(task.device), time.perf_counter()
    try:
        embed = runtimes[task.runtime]().prepare(encoder, resources)
    except RuntimeUnavailable as error:
        return str(error)
    load_s = time.perf_counter() - started
    agreement = float((embed(pictures[: max(SIZES)]) * expected[: max(SIZES)]).sum(dim=1).min())
    rates = {str(size): speed(embed, encoder, size) for size in SIZES}
    if task.device == "cpu" and (number := streams_beside(task.threads)):
        alone = replace(resources, threads=1, lanes=number)
        embed = runtimes[task.runtime]().prepare(encoder, alone)
        for size in SIZES:
            rates[f"lanes of {size}"] = speed_of_streams(embed, encoder, size, number)
    return Run(rates, agreement, load_s, _memory(task.device) - held)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--encoders", nargs="+", default=["efficientnet_lite:0"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


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
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _speed_of_a_product(device: str, threads: int) -> float:
    """Floating-point operations per second."""
    torch.set_num_threads(threads)
    on_cuda = device.startswith("cuda")
    rows = MATRIX["cuda" if on_cuda else "cpu"]
    matrix = torch.randn(rows, rows, dtype=torch.float16 if on_cuda else torch.float32).to(device)
    seconds = [_product(matrix) for _ in range(10)][2:]
    return 2 * rows**3 / statistics.median(seconds)


def _product(matrix: Tensor) -> float:
    started = time.perf_counter()
    float((matrix @ matrix)[0, 0])  # waits for the device
    return time.perf_counter() - started


def _operations(spec: str) -> float:
    """Floating-point operations of an image."""
    encoder = fold(_build(spec))
    side = encoder.preprocessing.crop
    with FlopCounterMode(display=False) as counter:
        encoder.embed(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    return float(counter.get_total_flops())


def _report(
    options: argparse.Namespace,
    device: str,
    product: float,
    measured: dict[str, dict[str, list[Run | str]]],
) -> None:
    name = (
        torch.cuda.get_device_name() if device.startswith("cuda") else f"{options.threads} threads"
    )
    print(f"{device}, {name}: {product / 1e9:.0f} GFLOP/s in a large product\n")
    print("images per second, median [lowest, highest], by size of batch\n")
    rows: dict[str, dict[str, Any]] = {}
    best: dict[str, float] = {}
    for encoder, tried in measured.items():
        operations = _operations(encoder)
        for runtime, found in tried.items():
            key = f"{encoder} {runtime}"
            runs = [run for run in found if isinstance(run, Run)]
            if len(runs) < len(found):
                rows[key] = {"refusal": next(run for run in found if isinstance(run, str))}
                print(f"{key:<48}  {rows[key]['refusal']}")
                continue
            rows[key] = _row(runs, operations, product)
            if rows[key]["agreement"] >= AGREEMENT:
                best[runtime] = rows[key]["images_per_s"][str(max(SIZES))]["median"]
            _print(key, rows[key])
    speeds = ", ".join(f"{runtime} {rate:.0f}" for runtime, rate in best.items())
    headline = f"{name}, {options.encoders[-1]}, batches of {max(SIZES)}: {speeds} images/s"
    finish(
        options,
        {"device": name, "gflops_of_a_product": round(product / 1e9, 1), "runs": rows},
        headline,
        kept=all(row.get("agreement", 1.0) >= AGREEMENT for row in rows.values()),
    )


def _row(runs: Sequence[Run], operations: float, product: float) -> dict[str, Any]:
    rates = {size: [run.images_per_s[size] for run in runs] for size in runs[0].images_per_s}
    return {
        "images_per_s": {
            size: {
                "median": round(statistics.median(found), 1),
                "lowest": round(min(found), 1),
                "highest": round(max(found), 1),
                "of_the_product": round(statistics.median(found) * operations / product, 4),
            }
            for size, found in rates.items()
        },
        "agreement": round(min(run.agreement for run in runs), 6),
        "first_load_s": round(runs[0].load_s, 2),
        "later_load_s": round(statistics.median(run.load_s for run in runs[1:]), 2),
        "memory_mib": round(statistics.median(run.memory_mib for run in runs)),
    }


def _print(key: str, row: dict[str, Any]) -> None:
    print(
        f"{key}: agrees to {row['agreement']:.6f}, loads in {row['later_load_s']:.1f} s, takes "
        f"{row['memory_mib']} MiB"
    )
    for size, found in row["images_per_s"].items():
        print(f"{size:>14}{found['median']:>10.0f} [{found['lowest']:.0f}, {found['highest']:.0f}]")


if __name__ == "__main__":
    main()
