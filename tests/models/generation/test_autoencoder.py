"""The conditional variational autoencoder, against closed forms."""

import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from models.generation.autoencoder import (
    SHOTS,
    Autoencoder,
    AutoencoderObjective,
    GroupMembers,
    divergence,
    prior_draws,
)
from models.training.loop import Batch, Training
from models.training.recipe import Recipe

DIM, LATENT = 4, 3
NOISE = 0.3  # standard deviation
RECIPE = Recipe(
    epochs=8, batch_size=64, rate=5e-3, schedule="cosine", weight_decay=0.0, clip_norm=0.0
)


def started(dim: int = DIM, width: int = 32, noise: float = NOISE) -> Autoencoder:
    torch.manual_seed(0)
    autoencoder = Autoencoder(dim, width, LATENT)
    autoencoder.noise.fill_(noise**2)
    return autoencoder


def batch(count: int = 5):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(count, DIM, generator=generator) for _ in range(2)]


def test_the_divergence_is_that_of_two_gaussians():
    mean, log_variance = batch()

    expected = kl_divergence(
        Independent(Normal(mean, (log_variance / 2).exp()), 1),
        Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1),
    )

    assert torch.allclose(divergence(mean, log_variance), expected, atol=1e-5)


def test_at_the_start_the_bound_is_the_likelihood_of_a_gaussian_around_the_condition():
    points, conditions = batch()

    bound = started().bound(points, conditions, torch.randn(5, LATENT))

    constant = DIM / 2 * math.log(2 * math.pi * NOISE**2)
    likelihood = Independent(Normal(conditions, NOISE), 1).log_prob(points)
    assert torch.allclose(bound.reconstruction, -likelihood - constant, rtol=1e-5)
    assert torch.equal(bound.divergence, torch.zeros(5))


def test_the_gradient_at_the_start_is_that_of_the_gaussian():
    autoencoder, (points, conditions) = started(), batch()

    bound = autoencoder.bound(points, conditions, torch.zeros(5, LATENT))
    (bound.reconstruction + bound.divergence).sum().backward()

    gradients = {name: part.grad for name, part in autoencoder.named_parameters()}
    offset, posterior = gradients["decoder.2.bias"], gradients["encoder.2.bias"]
    assert offset is not None
    assert posterior is not None
    assert torch.allclose(offset, ((conditions - points) / NOISE**2).sum(dim=0), rtol=1e-4)
    assert torch.equal(posterior, torch.zeros(2 * LATENT))


def linear_gaussian_family(dim: int = DIM, count: int = 60, each: int = 30):
    """Groups whose means are Gaussian, and whose members differ in one direction and by noise.

    Also the covariance of the means, and that within groups.
    """
    generator = torch.Generator().manual_seed(0)
    loadings = torch.randn(dim, 2, generator=generator)
    inside = torch.randn(dim, 1, generator=generator)
    means = torch.randn(count, 2, generator=generator) @ loadings.T
    groups = torch.arange(count).repeat_interleave(each)
    points = means[groups] + torch.randn(len(groups), 1, generator=generator) @ inside.T
    points = points + NOISE * torch.randn(points.shape, generator=generator)
    within = inside @ inside.T + NOISE**2 * torch.eye(dim)
    return points, groups, loadings @ loadings.T, within


def test_a_linear_gaussian_family_is_learned_to_its_known_optimum():
    """Probabilistic PCA, given the condition (Tipping & Bishop, 1999): no bound is above the
    likelihood of the Gaussian x | c, and the best one is the likelihood."""
    points, groups, between, within = linear_gaussian_family()
    autoencoder = started()
    autoencoder.scale.fill_(float(points.std()))
    objective = AutoencoderObjective(autoencoder, groups, beta=1.0)

    losses = [epoch.loss for epoch in Training(objective, points, None, RECIPE)]

    optimum = 0.0
    for shots in SHOTS:
        of_condition = between + within / shots
        estimate = between @ torch.linalg.inv(of_condition)
        residual = between + within - estimate @ between
        residual = (residual + residual.T) / 2
        entropy = MultivariateNormal(torch.zeros(DIM), residual).entropy()
        optimum += float(entropy) / len(SHOTS)
    optimum -= DIM / 2 * math.log(2 * math.pi * NOISE**2)  # which the loss leaves out
    assert losses[0] > 2 * optimum
    assert losses[-1] == pytest.approx(optimum, rel=0.12)

    # What is generated has the mean that the best linear estimate says.
    condition = points[groups == 0][:5].mean(dim=0)
    draws = prior_draws(256, LATENT, 0)
    with torch.no_grad():
        generated = autoencoder.decode(draws, condition.expand(256, -1)).mean(dim=0)
    expected = between @ torch.linalg.inv(between + within / 5) @ condition
    assert float((generated - expected).norm()) < 0.5 * float(condition.norm())
    centres = torch.stack([points[groups == n].mean(dim=0) for n in range(60)])
    assert 1 <= autoencoder.used_latents(points, centres[groups]) <= LATENT


def test_a_collapsed_posterior_uses_no_latent_number():
    points, groups, _, _ = linear_gaussian_family(count=12)
    autoencoder = started()
    autoencoder.scale.fill_(float(points.std()))
    objective = AutoencoderObjective(autoencoder, groups, beta=1000.0)

    for _ in Training(objective, points, None, RECIPE):
        pass

    assert autoencoder.used_latents(points, points.roll(1, dims=0)) == 0


def test_an_interrupted_training_goes_on_bit_for_bit():
    points, groups, _, _ = linear_gaussian_family(count=10)

    def begin() -> Training:
        return Training(AutoencoderObjective(started(), groups, 1.0), points, None, short)

    short = Recipe(epochs=3, batch_size=8, rate=1e-3, schedule="cosine", weight_decay=0.0)
    whole = begin()
    losses = [epoch.loss for epoch in whole]
    interrupted = begin()
    next(interrupted)
    resumed = begin()
    resumed.load(interrupted.state())

    assert [epoch.loss for epoch in resumed] == losses[1:]
    states = (training.objective.state_dict() for training in (whole, resumed))
    assert all(torch.equal(*pair) for pair in zip(*(s.values() for s in states), strict=True))


def test_others_are_of_the_same_group_and_never_the_image_itself():
    groups = torch.tensor([1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 1, 0, 0])
    members = GroupMembers(groups)
    rows = torch.arange(16).repeat(50)
    shots = torch.tensor(SHOTS).repeat(267)[:800]

    others = members.others(rows, shots, torch.Generator().manual_seed(0))

    assert bool((groups[others] == groups[rows][:, None]).all())
    assert not bool((others == rows[:, None]).any())
    distinct = torch.tensor([len(set(row.tolist())) for row in others])
    assert torch.equal(distinct, shots)
    counts = torch.bincount(others[rows == 1].flatten(), minlength=16)
    assert set(counts.nonzero().flatten().tolist()) == {3, 5, 7, 9, 11, 14, 15}


def test_draws_of_the_prior_are_the_same_each_time_and_balanced():
    draws = prior_draws(64, 5, 3)

    assert torch.equal(draws, prior_draws(64, 5, 3))
    assert torch.allclose(draws.mean(dim=0), torch.zeros(5), atol=1e-6)
    assert len(prior_draws(7, 5, 3)) == 7


def test_a_step_is_of_images_and_the_mean_of_their_others():
    points, groups, _, _ = linear_gaussian_family(count=10)
    objective = AutoencoderObjective(started(), groups, 1.0)
    (positions, *_) = objective.order(
        len(points), None, Recipe(batch_size=4), torch.Generator().manual_seed(0)
    )

    torch.manual_seed(0)
    loss = objective.loss(Batch([points[positions]], positions, torch.empty(0)))

    rows, others = positions[:4], positions[4:].view(4, -1)
    squares = (points[rows] - points[others].mean(dim=1)).square().sum(dim=1) / NOISE**2 / 2
    assert float(loss) == pytest.approx(float(squares.mean()), rel=1e-5)
