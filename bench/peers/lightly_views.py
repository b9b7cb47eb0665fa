"""Images a second of lightly's views; runs in the peers' environment."""

import time

import numpy as np
import torch
from lightly.transforms import SimCLRTransform
from PIL import Image

from bench.peers.exchange import serve

IMAGES = 64


def answer(question: tuple[int, float]) -> float:
    """Images of a side a second, two views each, measured for so many seconds."""
    side, seconds = question
    noise = np.random.default_rng(side).integers(0, 256, (IMAGES, side, side, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels) for pixels in noise]
    transform = SimCLRTransform(input_size=side, normalize=None)
    count, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        transform(images[count % IMAGES])
        count += 1
    return count / passed


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(answer)
