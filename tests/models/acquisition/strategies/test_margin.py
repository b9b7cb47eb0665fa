"""Margin sampling."""

import torch

from models.acquisition import Pool
from models.acquisition.strategies.margin import Margin


def test_score_is_one_minus_the_gap_of_the_two_likeliest():
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.45, 0.35, 0.2]])
    pool = Pool(torch.eye(2), torch.arange(2), lambda embeddings: embeddings @ probabilities)

    indices, scores, _ = Margin().rank(pool, 2)

    assert indices.tolist() == [1, 0]
    assert torch.allclose(scores, torch.tensor([0.9, 0.5]))
