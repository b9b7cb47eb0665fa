"""The nearest-neighbours head."""

import math

import pytest
import torch
from torch.nn import functional as F

from models.heads.kinds.knn import FLOOR, WIDTH, Knn


def draw(rows, dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64), dim=1)


def test_votes_are_those_of_scikit_learn():
    embeddings, targets, queries = draw(60), torch.arange(60) % 4, draw(20, seed=1)

    fitted = Knn(neighbours=7, temperature=1.0, centered=False).fit(embeddings, targets, 4)

    sklearn = pytest.importorskip("sklearn.neighbors")
    peer = sklearn.KNeighborsClassifier(
        7,
        metric="cosine",
        algorithm="brute",
        weights=lambda distances: 2.718281828 ** (-distances / WIDTH),
    ).fit(embeddings.numpy(), targets.numpy())
    # Without the floor, which is relative to the nearest.
    nearest = (((queries @ embeddings.T).amax(1) - 1) / WIDTH).exp()[:, None]
    votes = (fitted.scores(queries).exp() - FLOOR) * nearest
    expected = torch.from_numpy(peer.predict_proba(queries.numpy()))
    assert torch.allclose(votes / votes.sum(1, keepdim=True), expected, atol=1e-6)


def test_one_neighbour_decides_by_itself():
    embeddings, targets = torch.eye(3), torch.tensor([0, 1, 2])

    fitted = Knn(neighbours=1, temperature=1.0, centered=False).fit(embeddings, targets, 3)

    (scores,) = fitted.scores(F.normalize(torch.tensor([[0.9, 0.1, 0.2]]), dim=1)).tolist()
    assert math.isclose(scores[0] - scores[1], math.log((1 + FLOOR) / FLOOR), rel_tol=1e-5)


def test_twins_of_another_class_still_vote():
    embeddings = torch.cat([draw(1), draw(1), draw(4, seed=1)])
    targets = torch.tensor([0, 1, 0, 0, 1, 1])

    fitted = Knn(neighbours=1, temperature=1.0, centered=False).fit(embeddings, targets, 2)

    assert fitted.leave_one_out(embeddings, targets)[:2].argmax(1).tolist() == [1, 0]
