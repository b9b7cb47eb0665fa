"""The pool as strategies see it, and how images that can be scored are ranked."""

import torch

from models.acquisition import BLOCK_ROWS, Pool, top
from models.acquisition.strategies.margin import Margin

CENTROIDS = torch.eye(4)


def classify(embeddings: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    return (embeddings @ CENTROIDS.T / temperature).softmax(dim=1)


def make_pool(images: int = 50, *, dtype: torch.dtype = torch.float32) -> Pool:
    """A pool, and eight labeled images behind it."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(images + 8, 4, generator=generator)
    embeddings = torch.nn.functional.normalize(points, dim=1).to(dtype)
    labeled = torch.arange(images, images + 8)
    return Pool(embeddings, torch.arange(images), classify, labeled, labeled % 4)


def test_blocks_change_nothing():
    pool = make_pool(2 * BLOCK_ROWS + 3)

    indices, scores, _ = Margin().rank(pool, len(pool))

    first, second = classify(pool.embeddings[:-8]).topk(2, dim=1).values.unbind(dim=1)
    assert torch.allclose(scores, (1 - first + second)[indices], atol=1e-6)


def test_ties_keep_the_order_of_the_pool():
    indices, _, _ = top(torch.tensor([1.0, 2.0, 1.0, 2.0, 1.0]), 4)

    assert indices.tolist() == [1, 3, 0, 2]
