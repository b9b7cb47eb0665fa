"""Decoders of JPEG files side by side: images a second, and how alike their embeddings are.

Each makes the square that an encoder takes, from the same bytes: ours (Pillow, at a reduced scale),
torchvision, simplejpeg and OpenCV, which all end with Pillow's resampling. Agreement is the lowest
cosine of an embedding to that of the photo decoded at its full scale. Photos of 400 by 300 pixels
and of 12 megapixels, on one thread and on as many as there are cores; they take turns. Peers run in
an environment of their own (`make bench-peers`).
"""

import io
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
import torch
from PIL import Image

from app.cli.benchmark import photos
from bench.data import encoded, large_photos
from bench.figures import spread
from bench.harness import ENCODER, PHOTOS, Options, Result, option, peers, run
from bench.tasks import ask_peer
from models.encoders.specs import parse
from models.images import Preprocessing, decode

OURS = "ours (Pillow)"
AGREEMENT = 0.999  # at least


def measure(options: Options) -> Result:
    """Decode small and large photos, in turns with the peers."""
    encoder = parse(options.encoder)[1].build().eval()
    sizes = {"400 x 300": photos(options.images, 128), "12 megapixels": large_photos(16)}
    rows: dict[str, dict[str, dict[str, float]]] = {}
    behind, agreement = [], []
    for name, bodies in sizes.items():
        full = torch.stack([_at_full_scale(body, encoder.preprocessing) for body in bodies])
        reference = encoder.embed(full)
        rates: dict[str, list[float]] = defaultdict(list)
        alike: dict[str, float] = {}
        for _ in range(options.repeats):
            answers = {OURS: _ours(bodies, encoder.preprocessing)}
            if options.peers:
                question = asdict(encoder.preprocessing) | {"bodies": bodies}
                answers |= ask_peer(options.peers, "decoders", [question])[0]
            for decoder, (pixels, speeds) in answers.items():
                vectors = encoder.embed(torch.from_numpy(pixels))
                alike[decoder] = round(float((vectors * reference).sum(dim=1).min()), 5)
                for threads, rate in speeds.items():
                    rates[f"{decoder}, {threads} threads"].append(rate)
        agreement.append(alike[OURS])
        rows[name] = {
            decoder: spread(values, 2, median="images_per_s")
            | {"agreement": alike[decoder.rpartition(",")[0]]}
            for decoder, values in rates.items()
        }
        parallel = [decoder for decoder in rates if not decoder.endswith(" 1 threads")]
        best = max(parallel, key=lambda decoder: rows[name][decoder]["images_per_s"])
        ours = next(decoder for decoder in parallel if decoder.startswith(OURS))
        share = rows[name][ours]["images_per_s"] / rows[name][best]["images_per_s"]
        behind.append(f"{name}: {100 * share:.0f} % of the fastest, {best.rpartition(',')[0]}")
    headline = f"{OURS} on all cores, " + "; ".join(behind)
    return Result({"rates": rows}, headline, min(agreement) >= AGREEMENT)


def _at_full_scale(body: bytes, preprocessing: Preprocessing) -> torch.Tensor:
    """Decoded as a PNG, which has no other scale."""
    picture = Image.open(io.BytesIO(body)).convert("RGB")
    return decode(encoded(picture, "PNG", compress_level=0), preprocessing).pixels


def _ours(
    bodies: Sequence[bytes], preprocessing: Preprocessing
) -> tuple[np.ndarray, dict[int, float]]:
    """The squares, and images per second by the number of threads."""
    rates = {}
    for threads in sorted({1, os.cpu_count() or 1}):
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda body: decode(body, preprocessing), bodies[:threads]))
            started = time.perf_counter()
            list(pool.map(lambda body: decode(body, preprocessing), bodies))
            rates[threads] = len(bodies) / (time.perf_counter() - started)
    return np.stack([decode(body, preprocessing).pixels for body in bodies]), rates


if __name__ == "__main__":
    repeats = option("--repeats", 5, quick=2)
    run(measure, PHOTOS, ENCODER, repeats, peers("torchvision, simplejpeg, OpenCV"))
