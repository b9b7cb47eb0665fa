"""The best linear estimate."""

import pytest
import torch

from models.generation import Groups, Sizes
from models.generation.generators.gaussian import Gaussian


def family(count: int = 400, each: int = 20, dim: int = 4):
    generator = torch.Generator().manual_seed(0)
    loadings = torch.randn(dim, dim, generator=generator)
    inside = torch.randn(dim, dim, generator=generator)
    groups = torch.arange(count).repeat_interleave(each)
    means = torch.randn(count, dim, generator=generator) @ loadings.T
    points = means[groups] + torch.randn(len(groups), dim, generator=generator) @ inside.T
    return Groups(points, groups, 0), loadings @ loadings.T, inside @ inside.T


@pytest.mark.parametrize("shots", [1, 5])
def test_it_is_the_conditional_mean_of_a_gaussian(shots):
    groups, between, within = family()
    options = Gaussian(ridge=1e-6)
    target = options.target(Sizes(4, groups.total, len(groups.points)))
    options.start(target, groups, 0)
    means = groups.points[:6]

    said = target(means, torch.full((6,), shots))

    expected = means @ torch.linalg.solve(between + within / shots, between)
    assert torch.allclose(said, expected, atol=0.25)


def test_groups_that_do_not_differ_move_everything_to_the_middle():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(200, 4, generator=generator)
    options = Gaussian()
    target = options.target(Sizes(4, 20, 200))
    options.start(target, Groups(points, torch.arange(200) % 20, 0), 0)

    assert float(target(points, torch.ones(200).long()).norm(dim=1).mean()) < 0.3


def test_a_ridge_of_zero_is_refused():
    with pytest.raises(ValueError, match="ridge must be from 1e-06 to 100"):
        Gaussian(ridge=0.0)
