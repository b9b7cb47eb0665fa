"""Images that look the same and have different labels."""

import pytest
import torch
from torch.nn import functional as F

from models.embeddings import near_duplicates
from models.embeddings.near_duplicates import contradicting_twins


def sample(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    embeddings = F.normalize(torch.randn(count, 4, generator=generator), dim=1)
    return embeddings, torch.randint(3, (count,), generator=generator)


@pytest.mark.parametrize("block", [7, 1024])
def test_it_finds_what_comparing_all_pairs_finds(monkeypatch, block):
    monkeypatch.setattr(near_duplicates, "ROWS_PER_BLOCK", block)
    embeddings, targets = sample(60)
    cosines = embeddings @ embeddings.T
    expected = {
        (i, j)
        for i in range(60)
        for j in range(i + 1, 60)
        if targets[i] != targets[j] and cosines[i, j] >= 0.9
    }

    twins = contradicting_twins(embeddings, targets, above=0.9)

    assert expected
    assert set(zip(twins.first.tolist(), twins.second.tolist(), strict=True)) == expected
    assert twins.cosine.tolist() == sorted(twins.cosine.tolist(), reverse=True)


def test_of_many_the_most_alike_are_kept(monkeypatch):
    monkeypatch.setattr(near_duplicates, "ROWS_PER_BLOCK", 7)
    embeddings, targets = sample(60)

    few = contradicting_twins(embeddings, targets, above=0.5, most=5)
    all_of_them = contradicting_twins(embeddings, targets, above=0.5)

    assert torch.allclose(few.cosine, all_of_them.cosine[:5])


def test_the_same_label_twice_is_no_contradiction():
    embeddings = torch.eye(4)[[0, 0, 1]]

    assert not len(contradicting_twins(embeddings, torch.tensor([0, 0, 1]), above=0.9).first)
