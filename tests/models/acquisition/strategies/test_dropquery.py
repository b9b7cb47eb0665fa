"""DropQuery."""

import torch

from models.acquisition import Pool
from models.acquisition.strategies.dropquery import DropQuery
from models.embeddings.clusters import fit
from tests.models.acquisition.naive import classify, distances, unit


def test_labels_that_turn_are_counted_by_pass():
    sure, torn = torch.eye(8)[0], torch.tensor([1.0, 0.999, 0, 0, 0, 0, 0, 0])
    points = torch.nn.functional.normalize(torch.stack([sure, torn]).repeat(1000, 1), dim=1)

    turned = DropQuery(passes=4, rate=0.5)._turned(Pool(points, torch.arange(2000), classify))

    # A sure image keeps its label: with nothing left, the first label is as good as any.
    assert float(turned[::2].max()) == 0
    # The other turns when its first feature drops out and its second does not: 1 in 4.
    assert 0.9 < float(turned[1::2].mean()) < 1.1


def test_the_picks_are_closest_to_the_centres_of_the_candidates():
    points = unit(120, 4)
    pool = Pool(points, torch.arange(120), classify)
    strategy = DropQuery(rate=0.5)

    picks, _, _ = strategy.rank(pool, 6)

    turned = strategy._turned(pool)
    bound = 1.5
    while int((turned >= bound).sum()) < 12:
        bound -= 0.5
    candidates = (turned >= bound).nonzero().squeeze(1)
    generator = pool.generator()
    torch.randperm(len(candidates), generator=generator)
    centres = fit(pool.vectors(candidates), 6, generator).centres
    expected = candidates[distances(points[candidates], centres).argmin(dim=0)]
    assert set(picks.tolist()) == set(expected.tolist())
