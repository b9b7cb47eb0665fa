"""Images a second of lightly's views; runs in the peers' environment."""

import numpy as np
import torch
from lightly.transforms import SimCLRTransform
from PIL import Image

from bench.figures import rate_of_turns
from bench.peers.exchange import serve

IMAGES = 64


def answer(question: tuple[int, float]) -> float:
    """Images of a side a second, two views each, measured for so many seconds."""
    side, seconds = question
    noise = np.random.default_rng(side).integers(0, 256, (IMAGES, side, side, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels) for pixels in noise]
    transform = SimCLRTransform(input_size=side, normalize=None)

    def turn() -> int:
        for image in images:
            transform(image)
        return IMAGES

    return rate_of_turns(turn, seconds)


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(answer)
