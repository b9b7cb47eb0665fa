"""TypiClust."""

import torch

from models.acquisition import Pool
from models.acquisition.strategies.typiclust import TypiClust
from models.embeddings.clusters import fit
from tests.models.acquisition.naive import distances, unit


def typicality(points: torch.Tensor, neighbours: int) -> torch.Tensor:
    between = distances(points, points)
    return 1 / (between.sort(dim=1).values[:, 1 : neighbours + 1].mean(dim=1) + 1e-5)


def test_the_picks_are_the_most_typical_of_the_clusters_with_fewest_labels():
    points = unit(160, 4)
    pool = Pool(points, torch.arange(150), None, labeled=torch.arange(150, 160))

    picks, scores, _ = TypiClust().rank(pool, 5)

    generator = pool.generator()
    torch.randperm(160, generator=generator)
    groups = fit(pool.vectors(torch.arange(160)), 15, generator).groups
    sizes = torch.bincount(groups, minlength=15)
    labels = torch.bincount(groups[150:], minlength=15)
    in_pool = sizes - labels
    order = sorted(
        (g for g in range(15) if sizes[g] >= 5), key=lambda g: (int(labels[g]), -int(in_pool[g]), g)
    )
    for pick, score, group in zip(picks.tolist(), scores.tolist(), order, strict=False):
        members = (groups[:150] == group).nonzero().squeeze(1)
        values = typicality(points[members], min(20, len(members) // 2))
        assert pick == int(members[values.argmax()])
        assert abs(score - float(values.max())) < 1e-4 * score


def test_each_of_three_heaps_gets_its_label():
    points = torch.nn.functional.normalize(torch.eye(8)[[0] * 40 + [1] * 20 + [2] * 10], dim=1)
    points = torch.nn.functional.normalize(points + 0.02 * unit(70, 8), dim=1)

    picks, _, _ = TypiClust().rank(Pool(points, torch.arange(70), None), 3)

    assert {(int(p) >= 40) + (int(p) >= 60) for p in picks} == {0, 1, 2}


def test_a_sample_fits_the_clusters_of_a_larger_pool():
    points = torch.nn.functional.normalize(torch.eye(8)[[0] * 400 + [1] * 200], dim=1)
    points = torch.nn.functional.normalize(points + 0.02 * unit(600, 8), dim=1)

    picks, _, _ = TypiClust(sample=100).rank(Pool(points, torch.arange(600), None), 2)

    assert {int(p) >= 400 for p in picks} == {True, False}
