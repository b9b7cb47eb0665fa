"""Small data sets and the proxy that judges augmentations of them."""

from collections.abc import Callable

import pytest
import torch
from torch import Generator, nn

from models.augmentation_search.proxy import Proxy
from models.encoders import Encoder
from models.images import Preprocessing

SIDE = 16


@pytest.fixture
def encoder() -> Encoder:
    """Sees the mean colours of 4 x 4 fields."""
    grey = (0.5, 0.5, 0.5)
    preprocessing = Preprocessing(resize=SIDE, crop=SIDE, mean=grey, std=grey)
    stages = [nn.AdaptiveAvgPool2d(4), nn.Flatten()]
    return Encoder(stages, embedding_dim=48, preprocessing=preprocessing).eval()


@pytest.fixture
def count_embedded(encoder) -> Callable[[], list[int]]:
    """Begins to count how many images each pass of the encoder embeds."""

    def begin() -> list[int]:
        counts: list[int] = []
        encoder.register_forward_hook(lambda _, inputs, __: counts.append(len(inputs[0])))
        return counts

    return begin


@pytest.fixture
def noisy() -> Callable[..., torch.Tensor]:
    """Decoded images from pictures with values in 0..1, with noise."""

    def make(pictures: torch.Tensor, noise: float = 0.1) -> torch.Tensor:
        luck = torch.randn(pictures.shape, generator=Generator().manual_seed(0))
        return ((pictures + noise * luck).clamp(0, 1) * 255).to(torch.uint8)

    return make


@pytest.fixture
def grey(encoder, noisy) -> Callable[..., Proxy]:
    """A proxy for images that differ in how bright they are, a little."""

    def make(count: int = 16, **options: int) -> Proxy:
        targets = torch.arange(count) % 2
        pictures = (0.45 + 0.1 * targets).view(-1, 1, 1, 1).expand(-1, 3, SIDE, SIDE)
        return Proxy(encoder, noisy(pictures), targets, **options)

    return make


@pytest.fixture
def framed(encoder, noisy) -> Callable[..., Proxy]:
    """A proxy for four classes; the first has a bright frame and is otherwise as the second.

    Without the frame, which a strong crop cuts off, the first looks like the second, which has a
    third as many images.
    """

    def make(frame: float = 1.0, **options: int) -> Proxy:
        targets = torch.tensor([0, 0, 0, 1, 2, 3] * 12)
        pictures = torch.full((len(targets), 3, SIDE, SIDE), 0.55)
        pictures[targets == 2, 0] = 1.0  # red
        pictures[targets == 3, 2] = 1.0  # blue
        inner = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        inner[1:-1, 1:-1] = True
        first = (targets == 0).view(-1, 1, 1, 1)
        pictures = torch.where(first & ~inner, torch.tensor(frame), pictures)
        return Proxy(encoder, noisy(pictures, 0.05), targets, **options)

    return make
