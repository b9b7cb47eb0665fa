"""What is left of the last ranking for the next."""

from uuid import UUID

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import models.acquisition.bounds
from app.ranking.cosine_cache import Cosines
from app.vectors.matrices import POOL, Snapshot
from models.acquisition import CLOSENESS_SLOPE, closeness, top
from models.heads.kinds.cosine import Cosine
from models.heads.kinds.mahalanobis import Mahalanobis

KEY = UUID(int=1), UUID(int=2)
POINTS = F.normalize(
    torch.randn(90, 8, generator=torch.Generator().manual_seed(0))
    + 3 * torch.eye(8)[torch.arange(90) % 3],
    dim=1,
).half()
TARGETS = torch.arange(90) % 3


@pytest.fixture
def computed(monkeypatch):
    """How many cosines were computed, each time."""
    counts = []
    look, look_again = models.acquisition.bounds._look, models.acquisition.bounds._look_again

    def looking(embeddings, centroids, mean):
        counts.append(len(embeddings) * len(centroids))
        return look(embeddings, centroids, mean)

    def looking_again(embeddings, lengths, centroids, mean):
        counts.append(len(embeddings) * len(centroids))
        return look_again(embeddings, lengths, centroids, mean)

    monkeypatch.setattr(models.acquisition.bounds, "_look", looking)
    monkeypatch.setattr(models.acquisition.bounds, "_look_again", looking_again)
    return counts


def snapshot(images, first=0):
    ids = np.arange(first, first + images, dtype=np.uint8).repeat(16).reshape(images, 16)
    return Snapshot(1, POINTS[:images], ids, np.full(images, POOL, np.int32), [])


def fit(labeled):
    return Cosine(temperature=0.05).fit(POINTS[:labeled], TARGETS[:labeled], 3)


def ask(cosines, everything, head):
    rows = torch.arange(30, len(everything.ids))
    found = cosines.shortcut(KEY, everything, head)(rows, closeness, CLOSENESS_SLOPE, 5)
    whole = top(closeness(head.probabilities(everything.vectors[rows].float())), 5)
    assert found.indices.tolist() == whole.indices.tolist()
    assert torch.allclose(found.scores, whole.scores, atol=1e-6)


def test_one_more_label_costs_one_class_at_most(computed):
    cosines = Cosines()

    ask(cosines, snapshot(90), fit(9))
    ask(cosines, snapshot(90), fit(9))
    ask(cosines, snapshot(90), fit(10))

    assert computed[0] == 90 * 3
    assert sum(computed[1:]) in (0, 90)


def test_new_images_are_added(computed):
    cosines = Cosines()

    ask(cosines, snapshot(60), fit(9))
    ask(cosines, snapshot(90), fit(9))

    assert sum(computed) == 90 * 3


def test_images_that_are_numbered_anew_are_computed_anew(computed):
    cosines = Cosines()

    ask(cosines, snapshot(90), fit(9))
    ask(cosines, snapshot(90, first=1), fit(9))

    assert sum(computed) == 2 * 90 * 3


def test_other_heads_and_more_than_is_kept_have_no_shortcut():
    shared = Mahalanobis(centered=False).fit(POINTS[:30], TARGETS[:30], 3)

    assert Cosines().shortcut(KEY, snapshot(90), shared) is None
    assert Cosines(most=269).shortcut(KEY, snapshot(90), fit(9)) is None
    assert Cosines(most=270).shortcut(KEY, snapshot(90), fit(9)) is not None


def test_projects_used_longest_ago_are_forgotten(computed):
    cosines = Cosines(most=270)
    other = UUID(int=3), UUID(int=4)
    ask(cosines, snapshot(90), fit(9))
    shortcut = cosines.shortcut(other, snapshot(90), fit(9))
    assert shortcut is not None
    shortcut(torch.arange(90), closeness, CLOSENESS_SLOPE, 5)
    before = sum(computed)

    ask(cosines, snapshot(90), fit(9))

    assert sum(computed) == before + 270
