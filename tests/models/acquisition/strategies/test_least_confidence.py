"""Least confidence sampling."""

import torch

from models.acquisition import Pool
from models.acquisition.strategies.least_confidence import LeastConfidence


def test_only_the_likeliest_class_counts():
    probabilities = torch.tensor([[0.6, 0.4, 0.0], [0.5, 0.25, 0.25]])
    pool = Pool(torch.eye(2), torch.arange(2), lambda embeddings: embeddings @ probabilities)

    indices, scores, _ = LeastConfidence().rank(pool, 2)

    assert indices.tolist() == [1, 0]
    assert torch.allclose(scores, torch.tensor([0.5, 0.4]))
