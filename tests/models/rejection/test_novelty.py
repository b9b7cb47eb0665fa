"""How unlike all labeled images an image is."""

import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from models.rejection import novelty
from models.rejection.novelty import NeighbourDistance, RelativeMahalanobis
from tests.models.rejection.conftest import draw

MEASURES = [NeighbourDistance, RelativeMahalanobis]


def inverse_of(residuals, freedom):
    """Of the shrunk covariance, from deviations, by its definition."""
    scatter = residuals.T @ residuals
    ridge = novelty.STRENGTH * scatter.trace() / (len(residuals) - 1)
    eye = torch.eye(residuals.shape[1], dtype=torch.float64)
    return torch.linalg.inv((scatter + ridge * eye) / freedom)


@pytest.mark.parametrize("dim", [8, 40], ids=["many", "fewer-than-dimensions"])
def test_relative_mahalanobis_is_that_of_the_definition(dim):
    embeddings, targets = draw([6, 8, 5], dim)
    queries = draw([3, 3, 3], dim, seed=1)[0]

    scores = RelativeMahalanobis.fit(embeddings, targets, 3).scores(queries)

    means = torch.stack([embeddings[targets == c].mean(0) for c in range(3)])
    within = inverse_of(embeddings - means[targets], len(targets) - 3)
    whole = inverse_of(embeddings, len(targets))
    for query, score in zip(queries, scores, strict=True):
        to_classes = min((query - m) @ within @ (query - m) for m in means)
        assert score == pytest.approx(float(to_classes - query @ whole @ query), abs=1e-8)


def test_neighbour_distance_is_that_of_scikit_learn(monkeypatch):
    monkeypatch.setattr(novelty, "ROWS_PER_BLOCK", 4)
    embeddings, targets = draw([6, 8, 5])
    queries = draw([3, 3, 3], seed=1)[0]

    scores = NeighbourDistance.fit(embeddings, targets, 3).scores(queries)

    peer = NearestNeighbors(n_neighbors=1).fit(embeddings.numpy())
    expected = torch.from_numpy(peer.kneighbors(queries.numpy())[0][:, 0])
    assert torch.allclose(scores, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("shots", [[4, 5, 6], [2, 1, 3], [20, 15, 18]])
def test_leave_one_out_equals_fitting_again(measure, shots):
    embeddings, targets = draw(shots)
    rows = (torch.tensor(shots)[targets] > 1).nonzero().squeeze(1)

    scores = measure.fit(embeddings, targets, 3).leave_one_out_scores(
        embeddings[rows], targets[rows]
    )

    for i, score in zip(rows.tolist(), scores.tolist(), strict=True):
        remaining = torch.arange(len(targets)) != i
        refitted = measure.fit(embeddings[remaining], targets[remaining], 3)
        assert score == pytest.approx(float(refitted.scores(embeddings[i : i + 1])), abs=1e-8)
