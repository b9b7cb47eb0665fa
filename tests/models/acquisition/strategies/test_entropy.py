"""Entropy sampling."""

import math

import torch

from models.acquisition import Pool
from models.acquisition.strategies.entropy import Entropy


def test_score_is_the_entropy_in_nats():
    probabilities = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    pool = Pool(torch.eye(2), torch.arange(2), lambda embeddings: embeddings @ probabilities)

    indices, scores, _ = Entropy().rank(pool, 2)

    assert indices.tolist() == [1, 0]
    assert torch.allclose(scores, torch.tensor([math.log(4), 0.0]))
