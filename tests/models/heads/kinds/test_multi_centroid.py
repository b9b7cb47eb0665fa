"""The head with several centroids for each class."""

import math

import pytest
import torch
from torch.nn import functional as F

from models.heads.kinds.cosine import Cosine
from models.heads.kinds.multi_centroid import WIDTH, FittedMultiCentroid, MultiCentroid


def normal(rows, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, dim, generator=generator, dtype=torch.float64)


def looks(shots, dim=12, seed=0, noise=0.3):
    """Embeddings of three classes with as many shots of each of three looks as told."""
    places = F.normalize(normal(9, dim, seed), dim=1)
    which = torch.repeat_interleave(torch.arange(9), torch.tensor(shots))
    vectors = places[which] + noise * normal(len(which), dim, seed + 1) / dim**0.5
    return F.normalize(vectors, dim=1), which % 3, which


def fit(embeddings, targets, centroids: int | None = None) -> FittedMultiCentroid:
    """Fitted to three classes."""
    fitted = MultiCentroid(centroids=centroids, centered=False).fit(embeddings, targets, 3)
    assert isinstance(fitted, FittedMultiCentroid)
    return fitted


def chosen_centroids(embeddings, targets) -> int | None:
    options = fit(embeddings, targets).options
    assert isinstance(options, MultiCentroid)
    return options.centroids


def by_hand(query, targets, groups, embeddings):
    """Scores from plain lists of members, one query at a time."""
    scores = []
    for target in range(int(targets.max()) + 1):
        total, shots = 0.0, int((targets == target).sum())
        for group in groups[targets == target].unique():
            members = embeddings[(targets == target) & (groups == group)]
            cosine = float(query @ F.normalize(members.sum(0), dim=0))
            total += len(members) / shots * math.exp(cosine / WIDTH)
        scores.append(WIDTH * math.log(total) if total else -math.inf)
    return torch.tensor(scores, dtype=torch.float64)


def test_with_one_centroid_it_is_the_cosine_head():
    embeddings, targets, _ = looks([4] * 9)
    queries = F.normalize(normal(20, 12, 7), dim=1)

    single = fit(embeddings, targets, 1)

    cosine = Cosine(centered=False).fit(embeddings, targets, 3)
    assert torch.allclose(single.probabilities(queries), cosine.probabilities(queries), atol=1e-9)


def test_scores_are_those_of_a_mixture():
    embeddings, targets, which = looks([4, 5, 6] * 3)
    queries = F.normalize(normal(20, 12, 7), dim=1)

    fitted = fit(embeddings, targets, 3)

    expected = torch.stack([by_hand(query, targets, which, embeddings) for query in queries])
    assert torch.allclose(fitted.scores(queries), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("noise", [0.3, 3.0], ids=["apart", "mixed"])
def test_leave_one_out_takes_the_image_out_of_its_cluster(noise):
    embeddings, targets, _ = looks([2, 3, 1] * 3, noise=noise)
    fitted = fit(embeddings, targets, 3)
    squares = (embeddings[:, None] - fitted.centres[targets]).square().sum(2).nan_to_num(math.inf)
    groups = squares.argmin(1)

    scores = fitted.leave_one_out(embeddings, targets) * fitted.temperature

    for i in range(len(targets)):
        remaining = torch.arange(len(targets)) != i
        expected = by_hand(
            embeddings[i], targets[remaining], groups[remaining], embeddings[remaining]
        )
        assert torch.allclose(scores[i], expected, rtol=0, atol=1e-8)


def test_where_looks_are_far_apart_leave_one_out_equals_fitting_again():
    embeddings, targets, _ = looks([3] * 9)
    fitted = fit(embeddings, targets, 3)

    log_odds = fitted.leave_one_out(embeddings, targets)

    for i in range(len(targets)):
        remaining = torch.arange(len(targets)) != i
        refitted = fitted.options.fit(embeddings[remaining], targets[remaining], 3)
        expected = refitted.scores(embeddings[i : i + 1])[0] / refitted.temperature
        assert torch.allclose(log_odds[i], expected, rtol=0, atol=1e-8)


def test_as_many_centroids_are_chosen_as_classes_have_looks():
    several, targets, _ = looks([8] * 9)
    single = F.normalize(normal(3, 12, 3)[targets] + normal(72, 12, 4), dim=1)

    assert chosen_centroids(several, targets) == 3
    assert chosen_centroids(single, targets) == 1


def test_it_tells_apart_classes_of_which_one_lies_on_both_sides_of_the_other():
    angles = torch.cat([torch.linspace(a - 0.2, a + 0.2, 10) for a in (0.0, 1.5, 3.0)])
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1)
    targets = torch.tensor([0, 1, 0]).repeat_interleave(10)

    fitted = MultiCentroid(centered=False).fit(embeddings, targets, 2)

    assert torch.equal(fitted.probabilities(embeddings).argmax(1), targets)


def test_a_class_has_no_more_centroids_than_half_its_shots():
    embeddings, targets, _ = looks([1, 2, 4, 1, 2, 4, 1, 1, 4])

    fitted = fit(embeddings, targets, 3)

    assert (fitted.members > 0).sum(1).tolist() == [1, 2, 3]
    assert fitted.members.sum(1).tolist() == [3, 5, 12]
    assert torch.isfinite(fitted.probabilities(embeddings)).all()
