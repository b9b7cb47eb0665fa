"""Each image by centroids of all the others."""

import pytest
import torch
from torch.nn import functional as F

from models import leave_one_out as module
from models.heads.cosine import Cosine
from models.leave_one_out import leave_one_out

CHANCE = torch.Generator().manual_seed(0)
EMBEDDINGS = F.normalize(torch.randn(30, 6, generator=CHANCE, dtype=torch.float64), dim=1)
TARGETS = torch.arange(30) % 4
MEAN = EMBEDDINGS.mean(dim=0)


@pytest.mark.parametrize("mean", [None, MEAN], ids=["plain", "centred"])
def test_it_equals_fitting_again_without_each_image(monkeypatch, mean):
    monkeypatch.setattr(module, "ROWS_PER_BLOCK", 7)

    found = leave_one_out(EMBEDDINGS, TARGETS, 4, temperature=0.1, mean=mean)

    rows = EMBEDDINGS if mean is None else F.normalize(EMBEDDINGS - mean, dim=1)
    for i in range(30):
        others = torch.arange(30) != i
        centroids = torch.stack(
            [F.normalize(rows[others & (c == TARGETS)].mean(dim=0), dim=0) for c in range(4)]
        )
        expected = (rows[i] @ centroids.T / 0.1).softmax(dim=0)
        assert torch.allclose(found[i], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("centered", [False, True])
def test_it_is_what_the_head_would_say(centered):
    mean = MEAN.float() if centered else None
    found = leave_one_out(EMBEDDINGS.float(), TARGETS, 4, temperature=0.03, mean=mean)

    others = torch.arange(30) != 5
    head = Cosine(centered=centered).fit(EMBEDDINGS[others].float(), TARGETS[others], 4, mean)
    said = head.probabilities(EMBEDDINGS[5:6].float())

    assert torch.allclose(found[5].float(), said[0], atol=1e-5)  # the head computes in float32


def test_the_only_image_of_a_class_leaves_none_behind():
    targets = torch.tensor([0, 0, 1])

    found = leave_one_out(EMBEDDINGS[:3], targets, 2, temperature=0.1)

    assert found[2].tolist() == [1.0, 0.0]
    assert (found[:2] > 0).all()
