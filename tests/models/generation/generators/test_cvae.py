"""The mean of what the autoencoder generates."""

import pytest
import torch
from torch.nn import functional as F

from models.generation import Sizes
from models.generation.generators import cvae
from models.generation.generators.cvae import Cvae
from tests.models.generation.conftest import made_up_groups

OPTIONS = Cvae(steps=600, width=32, latent=4, components=8, rate=5e-3, samples=32)


def learned(options: Cvae = OPTIONS):
    groups = made_up_groups(count=8, each=20, noise=0.9)
    torch.manual_seed(0)
    target = options.target(Sizes(8, 8, 160))
    for _ in options.start(target, groups, 0):
        pass
    return target.requires_grad_(False), groups


def test_it_learns_where_the_rest_of_a_class_lies():
    target, groups = learned()
    sums = torch.zeros(8, 8).index_add_(0, groups.groups, groups.points)
    centres = F.normalize(sums, dim=1)[groups.groups]

    said = F.normalize(target(groups.points, torch.ones(160).long()), dim=1)

    assert float((said * centres).sum(1).mean()) > float((groups.points * centres).sum(1).mean())
    assert 0 <= target.used_latents(groups) <= 4


def test_before_it_has_learned_nothing_moves():
    groups = made_up_groups()
    target = OPTIONS.target(Sizes(8, 6, 72))
    OPTIONS.start(target, groups, 0)

    assert torch.allclose(target(groups.points, torch.ones(72).long()), groups.points, atol=1e-5)


def test_its_answer_is_the_mean_of_what_it_generates():
    target, groups = learned(Cvae(steps=100, width=8, latent=2, components=5, samples=7))

    mean = target(groups.points[:1], torch.ones(1).long())[0]

    generated = target.generate(groups.points[0])
    assert generated.shape == (7, 8)
    assert torch.allclose(generated.mean(dim=0), mean, atol=1e-5)


def test_it_generates_block_by_block(monkeypatch):
    target, groups = learned(Cvae(steps=100, width=8, latent=2, components=5, samples=9))
    whole = target(groups.points[:7], torch.ones(7).long())

    monkeypatch.setattr(cvae, "DRAWS_AT_A_TIME", 4)
    monkeypatch.setattr(cvae, "CONDITIONS_AT_A_TIME", 2)

    assert torch.allclose(target(groups.points[:7], torch.ones(7).long()), whole, atol=1e-5)


def test_a_posterior_that_collapsed_is_known():
    target, groups = learned(Cvae(steps=300, width=8, latent=2, components=5, beta=1000.0))

    assert target.used_latents(groups) == 0


def test_options_out_of_bounds_are_refused():
    with pytest.raises(ValueError, match="latent must be from 1 to 4096"):
        Cvae(latent=0)
