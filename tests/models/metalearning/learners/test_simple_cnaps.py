"""Nearest mean under a shared covariance, inside of episodes."""

import torch
from torch.nn import functional as F

from models.encoders.architectures.conv4 import Conv4
from models.metalearning.learners.simple_cnaps import SimpleCNAPS

GENERATOR = torch.Generator().manual_seed(0)
SUPPORT = F.normalize(torch.randn(3, 4, 8, generator=GENERATOR), dim=2)
QUERY = F.normalize(torch.randn(5, 8, generator=GENERATOR), dim=1)


def objective():
    return SimpleCNAPS(shrinkage=0.5).build(Conv4(width=8, image_side=28).build(), fresh=True)


def differences(logits):
    return logits - logits[:, :1]


def test_distances_are_those_under_the_inverse_covariance():
    learner = objective()

    logits = learner.logits(SUPPORT, QUERY)

    means = SUPPORT.mean(dim=1)
    within = (SUPPORT - means[:, None]).flatten(0, 1).double()
    inverse = torch.linalg.inv(within.T @ within / 12 + 0.5 / 8 * torch.eye(8))
    offsets = (QUERY[:, None] - means[None]).double()  # (Q, C, D)
    expected = -torch.einsum("qcd,de,qce->qc", offsets, inverse, offsets) / 2 * 10 * 0.5 / 8
    assert torch.allclose(differences(logits).double(), differences(expected), atol=1e-4)


def test_with_one_shot_each_it_is_the_plain_distance():
    logits = objective().logits(SUPPORT[:, :1], QUERY)

    expected = -torch.cdist(QUERY, SUPPORT[:, 0]).square() / 2 * 10
    assert torch.allclose(differences(logits), differences(expected), atol=1e-4)


def test_gradients_are_finite_where_shots_are_the_same():
    support = SUPPORT[:, :1].expand(-1, 4, -1).clone().requires_grad_()

    objective().logits(support, QUERY).logsumexp(dim=1).sum().backward()

    assert bool(support.grad.isfinite().all())
