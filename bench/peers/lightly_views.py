"""Images a second of lightly's views; runs in the peers' environment, prints JSON."""

import json
import sys
import time
import warnings

import numpy as np
import torch
from lightly.transforms import SimCLRTransform
from PIL import Image

IMAGES = 64


def main() -> None:
    """Measure each side."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    seconds, *sides = sys.argv[1:]
    print(json.dumps({side: speed(int(side), float(seconds)) for side in sides}))


def speed(side: int, seconds: float) -> float:
    """Images a second, two views each."""
    noise = np.random.default_rng(side).integers(0, 256, (IMAGES, side, side, 3), dtype=np.uint8)
    images = [Image.fromarray(one) for one in noise]
    transform = SimCLRTransform(input_size=side, normalize=None)
    done, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        transform(images[done % IMAGES])
        done += 1
    return done / passed


if __name__ == "__main__":
    main()
