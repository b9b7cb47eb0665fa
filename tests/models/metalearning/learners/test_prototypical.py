"""Prototypical networks."""

import pytest
import torch
from torch.nn import functional as F

from models.encoders.architectures.conv4 import Conv4
from models.metalearning.learners.prototypical import Prototypical

GENERATOR = torch.Generator().manual_seed(0)
SUPPORT = torch.randn(3, 4, 8, generator=GENERATOR)
QUERY = torch.randn(5, 8, generator=GENERATOR)


def objective(**options):
    return Prototypical(**options).build(Conv4(width=8, image_side=28).build(), fresh=True)


def test_logits_are_squared_distances_to_the_means():
    logits = objective().logits(SUPPORT, QUERY)

    expected = -torch.cdist(QUERY, SUPPORT.mean(dim=1)).square()
    differences = logits - logits[:, :1], expected - expected[:, :1]
    assert torch.allclose(*differences, atol=1e-4)


def test_cosines_are_to_the_directions_of_means():
    support, query = F.normalize(SUPPORT, dim=2), F.normalize(QUERY, dim=1)

    logits = objective(distance="cosine").logits(support, query)

    cosines = F.cosine_similarity(query[:, None], support.mean(dim=1)[None], dim=2)
    assert torch.allclose(logits, 10 * cosines, atol=1e-4)


def test_several_centroids_tell_a_label_of_two_looks_that_a_mean_cannot():
    looks = torch.tensor([[-4.0, 0.0], [4.0, 0.0], [-4.1, 0.0], [4.1, 0.0]])
    support = torch.stack([looks, torch.tensor([0.0, 1.0]) + 0.01 * looks])
    query = torch.tensor([[-4.0, 0.9], [4.0, 0.9], [0.0, 1.0]])

    answers = {n: objective(centroids=n).logits(support, query).argmax(dim=1) for n in (1, 2)}

    assert answers[2].tolist() == [0, 0, 1]
    assert answers[1].tolist() != answers[2].tolist()


def test_more_centroids_than_shots_are_as_many_as_shots():
    one_shot = SUPPORT[:, :1]

    first, second = objective(centroids=3), objective()

    assert torch.allclose(first.logits(one_shot, QUERY), second.logits(one_shot, QUERY))


def test_no_centroids_are_refused():
    with pytest.raises(ValueError, match="centroids must be from 1 to 10, got 0"):
        Prototypical(centroids=0)
