"""Ridge regression inside of episodes."""

import torch
from torch.nn import functional as F

from models.encoders.architectures.conv4 import Conv4
from models.metalearning.learners.r2d2 import R2D2

GENERATOR = torch.Generator().manual_seed(0)
SUPPORT = F.normalize(torch.randn(3, 4, 8, generator=GENERATOR), dim=2)
QUERY = F.normalize(torch.randn(5, 8, generator=GENERATOR), dim=1)


def test_estimates_are_those_of_the_normal_equations():
    objective = R2D2(penalty=0.3).build(Conv4(width=8, image_side=28).build(), fresh=True)

    logits = objective.logits(SUPPORT, QUERY)

    features, truth = SUPPORT.flatten(0, 1), torch.eye(3).repeat_interleave(4, dim=0)
    weights = torch.linalg.solve(features.T @ features + 0.3 * torch.eye(8), features.T @ truth)
    assert torch.allclose(logits, 10 * QUERY @ weights, atol=1e-4)


def test_the_penalty_learns():
    objective = R2D2().build(Conv4(width=8, image_side=28).build(), fresh=True)

    F.cross_entropy(objective.logits(SUPPORT, QUERY), torch.tensor([0, 1, 2, 0, 1])).backward()

    learned = dict(objective.named_parameters())
    assert float(learned["log_penalty"].grad.abs()) > 1e-4
    assert float(learned["log_scale"].grad.abs()) > 1e-4
