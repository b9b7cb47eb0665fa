"""JPEG files to squares by torchvision, simplejpeg and OpenCV; in the peers' environment."""

import io
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def main() -> None:
    """Images per second of each, by the number of threads, as JSON; their squares as files."""
    folder, resize, crop = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    resampling = RESAMPLING[sys.argv[4]]
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    bodies = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]

    def square(pixels: Any) -> Any:
        image = Image.fromarray(pixels)
        kept = min(image.size) * crop / resize
        left, top = (image.width - kept) / 2, (image.height - kept) / 2
        box = (left, top, left + kept, top + kept)
        return np.asarray(image.resize((crop, crop), resampling, box=box)).transpose(2, 0, 1)

    def with_torchvision(body: bytes) -> Any:
        bits = torch.from_numpy(np.frombuffer(body, np.uint8).copy())
        return square(decode_jpeg(bits, ImageReadMode.RGB).permute(1, 2, 0).numpy())

    def with_simplejpeg(body: bytes) -> Any:
        least = 2 * resize
        return square(simplejpeg.decode_jpeg(body, min_height=least, min_width=least))

    def with_opencv(body: bytes) -> Any:
        side = min(Image.open(io.BytesIO(body)).size)
        flags = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4}
        flags |= {2: cv2.IMREAD_REDUCED_COLOR_2, 1: cv2.IMREAD_COLOR}
        scale = next(s for s in (8, 4, 2, 1) if s == 1 or side // s >= 2 * resize)
        pixels = cv2.imdecode(np.frombuffer(body, np.uint8), flags[scale])
        return square(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))

    peers: dict[str, Callable[[bytes], Any]] = {
        "torchvision": with_torchvision,
        "simplejpeg": with_simplejpeg,
        "OpenCV": with_opencv,
    }
    rates: dict[str, dict[int, float]] = {}
    for name, work in peers.items():
        np.save(folder / f"{name}.npy", np.stack([work(body) for body in bodies]))
        rates[name] = {}
        for threads in sorted({1, os.cpu_count() or 1}):
            with ThreadPoolExecutor(threads) as pool:
                started = time.perf_counter()
                list(pool.map(work, bodies))
                rates[name][threads] = len(bodies) / (time.perf_counter() - started)
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
