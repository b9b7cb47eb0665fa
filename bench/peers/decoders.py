"""JPEG files to squares by torchvision, simplejpeg and OpenCV; in the peers' environment."""

import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from bench.peers.exchange import serve

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
OPENCV_SCALES = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    1: cv2.IMREAD_COLOR,
}


def answer(question: dict[str, Any]) -> dict[str, tuple[Any, dict[int, float]]]:
    """The squares of each, and images per second by the number of threads."""
    resize, crop, bodies = question["resize"], question["crop"], question["bodies"]

    def square(pixels: Any) -> Any:
        image = Image.fromarray(pixels)
        side = min(image.size) * crop / resize
        x, y = (image.width - side) / 2, (image.height - side) / 2
        box = x, y, x + side, y + side
        small = image.resize((crop, crop), RESAMPLING[question["interpolation"]], box=box)
        return np.asarray(small).transpose(2, 0, 1)

    def with_torchvision(body: bytes) -> Any:
        bits = torch.from_numpy(np.frombuffer(body, np.uint8).copy())
        return square(decode_jpeg(bits, ImageReadMode.RGB).permute(1, 2, 0).numpy())

    def with_simplejpeg(body: bytes) -> Any:
        return square(simplejpeg.decode_jpeg(body, min_height=2 * resize, min_width=2 * resize))

    def with_opencv(body: bytes) -> Any:
        side = min(Image.open(io.BytesIO(body)).size)
        scale = next(s for s in OPENCV_SCALES if s == 1 or side // s >= 2 * resize)
        pixels = cv2.imdecode(np.frombuffer(body, np.uint8), OPENCV_SCALES[scale])
        return square(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))

    answers = {}
    peers = {"torchvision": with_torchvision, "simplejpeg": with_simplejpeg, "OpenCV": with_opencv}
    for name, work in peers.items():
        squares, rates = np.stack([work(body) for body in bodies]), {}
        for threads in sorted({1, os.cpu_count() or 1}):
            with ThreadPoolExecutor(threads) as pool:
                started = time.perf_counter()
                list(pool.map(work, bodies))
                rates[threads] = len(bodies) / (time.perf_counter() - started)
        answers[name] = squares, rates
    return answers


if __name__ == "__main__":
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    serve(answer)
