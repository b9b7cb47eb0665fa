"""The cosine head."""

import math

import pytest
import torch
from torch.nn import functional as F

from models.heads.kinds.cosine import Cosine


def test_probabilities_are_the_softmax_of_cosines_over_the_temperature():
    fitted = Cosine(temperature=0.5).fit(torch.eye(2), torch.tensor([0, 1]), 2)

    (probabilities,) = fitted.probabilities(torch.tensor([[0.8, 0.6]]))

    odds = math.exp((0.8 - 0.6) / 0.5)
    assert probabilities.tolist() == pytest.approx([odds / (1 + odds), 1 / (1 + odds)])


def test_the_centroid_is_the_direction_of_the_mean():
    shots = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.1]]), dim=1)

    fitted = Cosine().fit(shots, torch.tensor([0, 0, 1]), 2)

    assert fitted.centroids[0].tolist() == pytest.approx([math.sqrt(0.5)] * 2)
    assert torch.allclose(fitted.centroids[1], shots[2])


def test_a_centroid_of_half_precision_shots_is_exact_whatever_came_and_went():
    generator = torch.Generator().manual_seed(0)
    shots = F.normalize(torch.randn(1001, 64, generator=generator), dim=1).half()
    targets = torch.zeros(1001, dtype=torch.int64)
    targets[0] = 1
    order = torch.randperm(1001, generator=generator)

    single = Cosine().fit(shots, targets, 2)
    two = Cosine().fit(shots[order], targets[order], 2)

    assert torch.equal(single.centroids, two.centroids)


def test_centring_removes_what_all_images_share():
    shared = torch.tensor([10.0, 0.0, 0.0])
    raw = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]) + shared
    shots = F.normalize(raw, dim=1)
    mean = shots.mean(0)

    plain = Cosine().fit(shots, torch.tensor([0, 1]), 2)
    centred = Cosine(centered=True).fit(shots, torch.tensor([0, 1]), 2, mean)

    assert plain.similarities(shots).min() > 0.99
    assert torch.allclose(centred.similarities(shots), torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))


def test_centring_needs_the_mean():
    with pytest.raises(ValueError, match="needs the mean"):
        Cosine(centered=True).fit(torch.eye(2), torch.tensor([0, 1]), 2)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf, 1e-9])
def test_a_temperature_that_gives_no_probabilities_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        Cosine(temperature=temperature)
