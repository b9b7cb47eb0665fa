"""Decoders of JPEG files side by side: images a second, and how alike their embeddings are.

Each makes the square that an encoder takes, from the same bytes: ours (Pillow, at a reduced scale),
torchvision, simplejpeg and OpenCV, which all end with Pillow's resampling. Agreement is the lowest
cosine of an embedding to that of the photo decoded at its full scale. Photos of 400 by 300 pixels
and of 12 megapixels, on one thread and on as many as there are cores; they take turns. Peers run in
an environment of their own (`make bench-peers`).
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from app.cli.benchmark import photos
from bench.few_shot import PEERS
from bench.harness import ROOT, arguments, finish, large_photos
from models.encoders.specs import parse
from models.images import Preprocessing, decode

OURS = "ours (Pillow)"
AGREEMENT = 0.999  # at least
COUNTS = {"400 x 300": 128, "12 megapixels": 16}


def main() -> None:
    """Run the benchmark."""
    options = _options()
    encoder = parse(options.encoder)[1].build().eval()
    preprocessing = encoder.preprocessing
    sizes = {
        name: photos(options.images, count) if name == "400 x 300" else large_photos(count)
        for name, count in COUNTS.items()
    }
    rates: dict[str, dict[str, list[float]]] = {name: {} for name in sizes}
    agreement: dict[str, dict[str, float]] = {name: {} for name in sizes}
    for name, bodies in sizes.items():
        reference = encoder.embed(torch.stack([_whole(body, preprocessing) for body in bodies]))
        for number in range(2 if options.quick else options.repeats):
            found = {OURS: _ours(bodies, preprocessing)}
            squares = {OURS: np.stack([decode(b, preprocessing).pixels.numpy() for b in bodies])}
            if options.peers.exists():
                timed, decoded = _peers(options.peers, bodies, preprocessing)
                found, squares = found | timed, squares | decoded
            elif not number:
                print(f"peers: skipped, {options.peers} is not there; make bench-peers")
            for decoder, by_threads in found.items():
                for threads, rate in by_threads.items():
                    rates[name].setdefault(f"{decoder}, {threads} threads", []).append(rate)
        for decoder, pixels in squares.items():
            same = (encoder.embed(torch.from_numpy(pixels)) * reference).sum(dim=1)
            agreement[name][decoder] = round(float(same.min()), 5)
    _report(options, rates, agreement)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=Path, help="folder of photos instead of scikit-learn's")
    parser.add_argument("--encoder", default="efficientnet_lite:0")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", type=Path, default=PEERS, help="their Python")
    return parser.parse_args()


def _whole(body: bytes, preprocessing: Preprocessing) -> torch.Tensor:
    """Decoded at its full scale: a PNG has no other."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(body)).convert("RGB").save(buffer, "PNG", compress_level=0)
    return decode(buffer.getvalue(), preprocessing).pixels


def _ours(bodies: Sequence[bytes], preprocessing: Preprocessing) -> dict[int, float]:
    return timed(lambda body: decode(body, preprocessing), bodies)


def timed(work: Callable[[bytes], object], bodies: Sequence[bytes]) -> dict[int, float]:
    """Images per second by the number of threads."""
    found = {}
    for threads in sorted({1, os.cpu_count() or 1}):
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, bodies[:threads]))
            started = time.perf_counter()
            list(pool.map(work, bodies))
            found[threads] = len(bodies) / (time.perf_counter() - started)
    return found


def _peers(
    python: Path, bodies: Sequence[bytes], preprocessing: Preprocessing
) -> tuple[dict[str, dict[int, float]], dict[str, np.ndarray]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, body in enumerate(bodies):
            (folder / f"{number:04}.jpg").write_bytes(body)
        sizes = [str(preprocessing.resize), str(preprocessing.crop), preprocessing.interpolation]
        command: list[str | Path] = [python, ROOT / "bench/peers/decoders.py", folder, *sizes]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        told = json.loads(done.stdout)
        rates = {d: {int(n): rate for n, rate in of.items()} for d, of in told.items()}
        return rates, {d: np.load(folder / f"{d}.npy") for d in rates}


def _report(
    options: argparse.Namespace,
    rates: dict[str, dict[str, list[float]]],
    agreement: dict[str, dict[str, float]],
) -> None:
    rows: dict[str, dict[str, dict[str, float]]] = {}
    behind = []
    for name, of in rates.items():
        print(f"\n{name:<34}{'images/s, median [lowest, highest]':>36}{'agreement':>12}")
        rows[name] = {}
        for decoder, found in of.items():
            alike = agreement[name][decoder.rpartition(",")[0]]
            middle = statistics.median(found)
            rows[name][decoder] = {
                "images_per_s": round(middle, 2),
                "lowest": round(min(found), 2),
                "highest": round(max(found), 2),
                "agreement": alike,
            }
            spread = f"[{min(found):.1f}, {max(found):.1f}]"
            print(f"{decoder:<34}{middle:>14.1f} {spread:>21}{alike:>12.5f}")
        many = [decoder for decoder in of if not decoder.endswith(" 1 threads")]
        best = max(many, key=lambda decoder: rows[name][decoder]["images_per_s"])
        own = next(decoder for decoder in many if decoder.startswith(OURS))
        share = rows[name][own]["images_per_s"] / rows[name][best]["images_per_s"]
        behind.append(f"{name}: {100 * share:.0f} % of the fastest, {best.rpartition(',')[0]}")
    kept = min(of[OURS] for of in agreement.values()) >= AGREEMENT
    finish(options, {"rates": rows}, f"{OURS} on all cores, " + "; ".join(behind), kept)


if __name__ == "__main__":
    main()
