"""The Mahalanobis head."""

import math

import pytest
import torch
from torch.nn import functional as F

from models.heads.kinds import mahalanobis
from models.heads.kinds.cosine import Cosine
from models.heads.kinds.mahalanobis import FittedMahalanobis, Mahalanobis


def draw(shots, dim, seed=0):
    """Classes that share a covariance with a few strong directions."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(len(shots), dim, generator=generator, dtype=torch.float64)
    targets = torch.repeat_interleave(torch.arange(len(shots)), torch.tensor(shots))
    noise = torch.randn(len(targets), dim, generator=generator, dtype=torch.float64)
    noise[:, :4] *= 5
    return F.normalize(centres[targets] + noise, dim=1), targets


@pytest.mark.parametrize("dim", [8, 60], ids=["many", "fewer-than-dimensions"])
def test_scores_are_those_of_the_definition(dim):
    embeddings, targets = draw([10, 12, 5], dim)
    queries = draw([20], dim, seed=1)[0]

    options = Mahalanobis(shrinkage=0.5, spread=3.0, temperature=2.0, centered=False)
    fitted = options.fit(embeddings, targets, 3)

    means = torch.stack([embeddings[targets == c].mean(0) for c in range(3)])
    residuals = embeddings - means[targets]
    scatter = residuals.T @ residuals
    ridge = 0.5 * scatter.trace() / 26 * torch.eye(dim, dtype=torch.float64)
    inverse = torch.linalg.inv((scatter + ridge) / 24)
    differences = queries[:, None] - means
    squares = torch.einsum("qcd,de,qce->qc", differences, inverse, differences)
    squares = squares - 3.0 / torch.tensor([10.0, 12.0, 5.0], dtype=torch.float64)
    expected = (-squares / 2 / 2.0).softmax(1)
    assert torch.allclose(fitted.probabilities(queries), expected, rtol=0, atol=1e-9)


def test_it_is_discriminant_analysis_with_a_ridge():
    embeddings, targets = draw([30, 30, 30], dim=10)
    queries = draw([50], 10, seed=1)[0]
    options = Mahalanobis(shrinkage=1.0, spread=0.0, temperature=1.0, centered=False)

    fitted = options.fit(embeddings, targets, 3)

    sklearn = pytest.importorskip("sklearn.discriminant_analysis")
    peer = sklearn.LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.0, priors=[1 / 3] * 3)
    peer.fit(embeddings.numpy(), targets.numpy())
    within = 90 * torch.from_numpy(peer.covariance_)  # it divides by n
    covariance = (within + within.trace() / 89 * torch.eye(10)) / 87
    means = torch.from_numpy(peer.means_)
    weights = torch.linalg.solve(covariance, means.T)
    expected = queries @ weights - (means.T * weights).sum(0) / 2
    assert torch.allclose(fitted.scores(queries), expected, rtol=0, atol=1e-8)


def test_directions_in_which_classes_vary_count_less():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(100, 2, generator=generator) * torch.tensor([1.0, 0.05])
    targets = torch.arange(100) % 2
    centres = torch.tensor([[0.0, 0.1], [0.0, -0.1]])
    query = torch.tensor([[1.0, 0.1]])

    fitted = Mahalanobis(shrinkage=0.01, centered=False).fit(noise + centres[targets], targets, 2)

    assert fitted.probabilities(query)[0, 0] > 0.7


def test_few_shots_do_not_put_a_class_at_a_disadvantage():
    """In 100 dimensions the mean of one shot is far from everything, its own class too."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(2, 100, generator=generator)
    targets = torch.tensor([0] * 40 + [1] * 2)
    support = centres[targets] + 3 * torch.randn(42, 100, generator=generator)
    truth = torch.arange(400) % 2
    queries = centres[truth] + 3 * torch.randn(400, 100, generator=generator)

    fair = Mahalanobis(centered=False).fit(support, targets, 2)
    unfair = Mahalanobis(centered=False, spread=0.0).fit(support, targets, 2)

    assert (unfair.probabilities(queries).argmax(1) == 1).float().mean() < 0.1
    assert 0.3 < (fair.probabilities(queries).argmax(1) == 1).float().mean() < 0.7


def test_the_spread_is_the_mean_squared_distance_to_the_true_mean():
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(4000) % 4
    noise = torch.randn(4000, 6, generator=generator, dtype=torch.float64)

    fitted = Mahalanobis(shrinkage=1e-4, centered=False).fit(noise + targets[:, None], targets, 4)

    assert isinstance(fitted, FittedMahalanobis)
    assert fitted.within_class_variance == pytest.approx(
        6, rel=0.05
    )  # a chi-squared with six degrees of freedom


def test_with_one_shot_each_it_is_the_nearest_shot():
    embeddings, targets = draw([1, 1, 1, 1], dim=12)
    queries = draw([30], 12, seed=1)[0]

    fitted = Mahalanobis(centered=False).fit(embeddings, targets, 4)

    assert torch.equal(
        fitted.probabilities(queries).argmax(1), torch.cdist(queries, embeddings).argmin(1)
    )
    cosine = Cosine(centered=False, temperature=mahalanobis.TEMPERATURE_ALONE)
    assert torch.allclose(
        fitted.probabilities(queries),
        cosine.fit(embeddings, targets, 4).probabilities(queries),
        rtol=0,
        atol=1e-9,
    )


def test_shrinkage_follows_what_the_classes_are_like():
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(60) % 3
    centres = torch.randn(3, 40, generator=generator)
    sphere = torch.randn(60, 40, generator=generator)
    line = sphere * torch.cat([torch.full((4,), 12.0), torch.full((36,), 0.3)])

    round_ = Mahalanobis(centered=False).fit(centres[targets] + 2 * sphere, targets, 3)
    flat = Mahalanobis(centered=False).fit(centres[targets] + line, targets, 3)

    assert isinstance(flat, FittedMahalanobis)
    assert isinstance(round_, FittedMahalanobis)
    assert flat.shrinkage < round_.shrinkage


@pytest.mark.parametrize(
    "options", [{"shrinkage": 0.0}, {"spread": -1.0}, {"temperature": math.nan}]
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Mahalanobis(**options)
