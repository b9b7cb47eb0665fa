"""What heads answer in episodes."""

import pytest
import torch

from models.heads.kinds.cosine import Cosine
from models.heads.kinds.ridge import Ridge
from models.metalearning.episodes import Episode
from models.metalearning.evaluation.answers import (
    EpisodeModel,
    class_probabilities,
    nearest_centroids,
)
from tests.models.metalearning.evaluation.test_evaluation import IMAGES, MEAN, NOISY


@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize("head", [Cosine(), Cosine(centered=True), Cosine(temperature=0.2)])
def test_nearest_centroids_at_once_are_the_head_one_by_one(head, shots):
    rows = torch.stack([torch.randperm(IMAGES)[: shots + 2] for _ in range(15)])
    rows = rows.view(3, 5, -1) + IMAGES * torch.arange(5)[:, None]
    support, query = NOISY[rows[..., :shots]], NOISY[rows[..., shots:].flatten(1)]
    mean = MEAN if head.centered else None

    together = nearest_centroids(head, support, query, mean)

    targets = torch.arange(5).repeat_interleave(shots)
    for episode in range(3):
        fitted = head.fit(support[episode].flatten(0, 1), targets, 5, mean)
        expected = fitted.probabilities(query[episode])
        assert torch.allclose(together[episode], expected, atol=1e-5)


def test_a_head_that_is_not_asked_at_once_is_fitted_to_the_support():
    support = IMAGES * torch.arange(3)[:, None] + torch.arange(2)
    episode = Episode(torch.arange(3), support, support[:, :1] + 2)
    targets = torch.arange(3).repeat_interleave(2)
    fitted = Ridge().fit(NOISY[support.flatten()], targets, 3, MEAN)

    (answers,) = class_probabilities(EpisodeModel(Ridge(), NOISY, MEAN), [episode])

    assert torch.equal(answers, fitted.probabilities(NOISY[episode.query.flatten()]).float())
