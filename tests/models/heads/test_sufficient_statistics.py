"""Statistics of a labeled set."""

import pytest
import torch
from torch.nn import functional as F

from models.heads.sufficient_statistics import Statistics

CLASSES, DIM = 7, 24


def half_units(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, DIM, generator=generator), dim=1).half()


def assert_close(first, second, within):
    assert torch.equal(first.counts, second.counts)
    assert torch.allclose(first.sums, second.sums, rtol=0, atol=within)
    assert torch.allclose(first.moment, second.moment, rtol=0, atol=within)


def test_moments_are_those_of_the_definition():
    embeddings, targets = half_units(40), torch.arange(40) % CLASSES

    statistics = Statistics.of(embeddings, targets, CLASSES)

    values = embeddings.double()
    scatter = torch.zeros(DIM, DIM, dtype=torch.float64)
    for target in range(CLASSES):
        members = values[targets == target]
        assert torch.allclose(statistics.means[target], members.mean(0), rtol=0, atol=1e-15)
        scatter += (len(members) - 1) * torch.cov(members.T)
    assert torch.allclose(statistics.within, scatter, rtol=0, atol=1e-12)


def test_ten_thousand_mixed_operations_end_where_a_refit_does():
    embeddings = half_units(500)
    generator = torch.Generator().manual_seed(1)
    labels = torch.full((500,), -1)
    statistics = Statistics.empty(CLASSES, DIM)
    for row, label in zip(
        torch.randint(500, (10_000,), generator=generator).tolist(),
        torch.randint(-1, CLASSES, (10_000,), generator=generator).tolist(),
        strict=True,
    ):
        image, before, after = embeddings[row : row + 1], labels[row : row + 1].clone(), label
        if before >= 0 and after >= 0:
            statistics.relabel(image, before, torch.tensor([after]))
        elif before >= 0:
            statistics.remove(image, before)
        elif after >= 0:
            statistics.add(image, torch.tensor([after]))
        labels[row] = after

    labeled = labels >= 0
    refit = Statistics.of(embeddings[labeled], labels[labeled], CLASSES)
    assert_close(statistics, refit, within=1e-8)
    assert torch.allclose(statistics.within, refit.within, rtol=0, atol=1e-8)


def test_what_came_and_went_leaves_no_trace():
    embeddings, targets = half_units(30), torch.arange(30) % CLASSES
    statistics = Statistics.empty(CLASSES, DIM)

    statistics.add(embeddings, targets)
    statistics.remove(embeddings.flip(0), targets.flip(0))

    assert_close(statistics, Statistics.empty(CLASSES, DIM), within=1e-15)


def test_more_than_there_is_cannot_be_removed():
    statistics = Statistics.of(half_units(2), torch.tensor([0, 1]), CLASSES)

    with pytest.raises(ValueError, match="cannot be removed"):
        statistics.remove(half_units(2), torch.tensor([0, 0]))


def test_a_class_without_embeddings_leaves_the_scatter_alone():
    embeddings, targets = half_units(6), torch.tensor([0, 0, 0, 2, 2, 2])

    wide, narrow = Statistics.of(embeddings, targets, 9), Statistics.of(embeddings, targets, 3)

    assert torch.equal(wide.within, narrow.within)
    assert wide.means[1].isnan().all()
