"""Matching networks."""

import torch
from torch.nn import functional as F

from models.encoders.architectures.conv4 import Conv4
from models.metalearning.learners.matching import Matching


def test_each_shot_votes_by_its_cosine():
    generator = torch.Generator().manual_seed(0)
    support = F.normalize(torch.randn(3, 4, 8, generator=generator), dim=2)
    query = F.normalize(torch.randn(5, 8, generator=generator), dim=1)
    objective = Matching().build(Conv4(width=8, image_side=28).build(), fresh=True)

    probabilities = objective.logits(support, query).softmax(dim=1)

    attention = (10 * query @ support.flatten(0, 1).T).softmax(dim=1)
    votes = torch.stack([attention[:, 4 * n : 4 * n + 4].sum(dim=1) for n in range(3)], dim=1)
    assert torch.allclose(probabilities, votes, atol=1e-5)
