"""Decoders of JPEG files side by side: images a second, and how alike their embeddings are.

Each makes the square that an encoder takes, from the same bytes: ours (Pillow, at a reduced scale),
torchvision, simplejpeg and OpenCV, which all end with Pillow's resampling. Agreement is the lowest
cosine of an embedding to that of the photo decoded at its full scale. Photos of 400 by 300 pixels
and of 12 megapixels, on as many threads as there are cores; they take turns.
"""

import io
import os
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from PIL import Image

from app.cli.benchmark import photos
from bench.data import encoded, large_photos
from bench.figures import rate, spread
from bench.harness import ENCODER, PHOTOS, Options, Result, option, peers, run
from bench.tasks import ask_peer
from models.encoders.specs import parse
from models.images import Preprocessing, decode

OURS = "ours (Pillow)"
AGREEMENT = 0.999  # at least


def measure(options: Options) -> Result:
    """Decode small and large photos, in turns with the peers."""
    encoder, cores = parse(options.encoder)[1].build().eval(), os.cpu_count() or 1
    sizes = {"400 x 300": photos(options.images, 128), "12 megapixels": large_photos(16)}
    rows: dict[str, dict[str, dict[str, float]]] = {}
    behind = []
    for name, bodies in sizes.items():
        full = torch.stack([_at_full_scale(body, encoder.preprocessing) for body in bodies])
        reference = encoder.embed(full)
        rates: dict[str, list[float]] = defaultdict(list)
        alike: dict[str, float] = {}
        for _ in range(options.repeats):
            answers = {OURS: _ours(bodies, encoder.preprocessing, cores)}
            if options.peers:
                question = asdict(encoder.preprocessing) | {"bodies": bodies, "threads": cores}
                answers |= ask_peer(options.peers, "decoders", [question])[0]
            for decoder, (pixels, speed) in answers.items():
                vectors = encoder.embed(torch.from_numpy(pixels))
                alike[decoder] = round(float((vectors * reference).sum(dim=1).min()), 5)
                rates[decoder].append(speed)
        rows[name] = {
            f"{decoder}, {cores} threads": spread(speeds, 2, median="images_per_s")
            | {"agreement": alike[decoder]}
            for decoder, speeds in rates.items()
        }
        medians = {decoder: statistics.median(speeds) for decoder, speeds in rates.items()}
        best = max(medians, key=lambda decoder: medians[decoder])
        share = medians[OURS] / medians[best]
        behind.append(f"{name}: {100 * share:.0f} % of the fastest, {best}")
    headline = f"{OURS} on all cores, " + "; ".join(behind)
    agreement = min(row[f"{OURS}, {cores} threads"]["agreement"] for row in rows.values())
    return Result({"rates": rows}, headline, agreement >= AGREEMENT)


def _at_full_scale(body: bytes, preprocessing: Preprocessing) -> torch.Tensor:
    """Decoded as a PNG, which has no other scale."""
    picture = Image.open(io.BytesIO(body)).convert("RGB")
    return decode(encoded(picture, "PNG", compress_level=0), preprocessing).pixels


def _ours(
    bodies: Sequence[bytes], preprocessing: Preprocessing, threads: int
) -> tuple[np.ndarray, float]:
    """The squares, and how many a second."""
    squares = np.stack([decode(body, preprocessing).pixels for body in bodies])
    return squares, rate(lambda body: decode(body, preprocessing), bodies, threads)


if __name__ == "__main__":
    repeats = option("--repeats", 5, quick=2)
    run(measure, PHOTOS, ENCODER, repeats, peers("torchvision, simplejpeg, OpenCV"))
