"""JPEG files to squares by torchvision, simplejpeg and OpenCV; in the peers' environment."""

import io
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from bench.figures import rate
from bench.peers.exchange import serve

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
OPENCV_SCALES = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    1: cv2.IMREAD_COLOR,
}


def answer(question: dict[str, Any]) -> dict[str, tuple[Any, float]]:
    """The squares of each, and images per second."""
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

    peers = {"torchvision": with_torchvision, "simplejpeg": with_simplejpeg, "OpenCV": with_opencv}
    return {
        name: (np.stack([work(body) for body in bodies]), rate(work, bodies, question["threads"]))
        for name, work in peers.items()
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    serve(answer)
