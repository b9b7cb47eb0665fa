"""The ridge head."""

import pytest
import torch
from torch.nn import functional as F

from models.heads.kinds.ridge import CONSTANT, Ridge


def draw(rows, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("dim", [6, 50], ids=["many", "fewer-than-dimensions"])
def test_scores_are_those_of_scikit_learn(dim):
    embeddings, targets, queries = draw(30, dim), torch.arange(30) % 3, draw(9, dim, seed=1)

    options = Ridge(penalty=0.5, temperature=1.0, centered=False)
    scores = options.fit(embeddings, targets, 3).scores(queries)

    peer = pytest.importorskip("sklearn.linear_model").Ridge(alpha=0.5, fit_intercept=False)
    peer.fit(F.pad(embeddings, (0, 1), value=CONSTANT).numpy(), F.one_hot(targets).double().numpy())
    expected = torch.from_numpy(peer.predict(F.pad(queries, (0, 1), value=CONSTANT).numpy()))
    assert torch.allclose(scores, expected, rtol=0, atol=1e-9)


def test_random_features_tell_apart_what_no_line_can():
    angles = torch.arange(40, dtype=torch.float64) / 40 * 2 * torch.pi
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1)
    targets = ((embeddings[:, 0] * embeddings[:, 1]) > 0).long()  # opposite quarters

    plain = Ridge(penalty=0.01, centered=False).fit(embeddings, targets, 2)
    random = Ridge(penalty=0.01, centered=False, features=200).fit(embeddings, targets, 2)

    assert (plain.probabilities(embeddings).argmax(1) == targets).float().mean() < 0.7
    assert (random.probabilities(embeddings).argmax(1) == targets).float().mean() > 0.95


def test_leave_one_out_of_random_features_equals_fitting_again():
    embeddings, targets = draw(20, 5), torch.arange(20) % 2
    options = Ridge(penalty=0.5, features=12, temperature=1.0, centered=False)

    log_odds = options.fit(embeddings, targets, 2).leave_one_out(embeddings, targets)

    for i in range(20):
        remaining = torch.arange(20) != i
        refitted = options.fit(embeddings[remaining], targets[remaining], 2)
        assert torch.allclose(
            log_odds[i], refitted.scores(embeddings[i : i + 1])[0], rtol=0, atol=1e-8
        )


def test_the_same_seed_draws_the_same_features():
    embeddings, targets = draw(20, 5), torch.arange(20) % 2

    first, second, third = (
        Ridge(features=16, seed=seed, centered=False).fit(embeddings, targets, 2).scores(embeddings)
        for seed in (3, 3, 4)
    )

    assert torch.equal(first, second)
    assert not torch.allclose(first, third)
