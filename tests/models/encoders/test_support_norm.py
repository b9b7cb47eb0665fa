"""Batch normalisation by some of the images: what it makes, and its derivatives."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

from models.encoders.support_norm import normalise_by_support

GENERATOR = torch.Generator().manual_seed(0)
SHAPES = [(4, 2, 3, 2), (5, 2)]


def norm(**options):
    made = nn.BatchNorm2d(2, **options).double().train()
    if made.affine:
        nn.init.normal_(made.weight)
        nn.init.normal_(made.bias)
    return made


def draw(shape):
    return torch.randn(shape, generator=GENERATOR).double().requires_grad_()


@pytest.mark.parametrize("affine", [True, False])
def test_the_support_is_normalised_as_a_batch_and_the_others_by_it(affine):
    maps, batch_norm = draw((5, 2, 3, 3)), norm(affine=affine)

    made = normalise_by_support(batch_norm, maps, 3)

    expected = batch_norm(maps[:3])
    assert torch.allclose(made.maps[:3], expected)
    variance, mean = torch.var_mean(maps[:3], dim=(0, 2, 3), correction=0)
    assert torch.allclose(made.mean, mean)
    assert torch.allclose(made.variance, variance)
    others = (maps[3:] - mean[:, None, None]) / (variance + batch_norm.eps).sqrt()[:, None, None]
    if affine:
        others = others * batch_norm.weight[:, None, None] + batch_norm.bias[:, None, None]
    assert torch.allclose(made.maps[3:], others)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("support", [2, None])
def test_derivatives_are_those_of_finite_differences(shape, support):
    maps, batch_norm = draw(shape), norm()
    batch_norm.forward = lambda maps: normalise_by_support(batch_norm, maps, support or len(maps))

    def made(maps, weight, bias):
        return functional_call(batch_norm, {"weight": weight, "bias": bias}, (maps,)).maps

    inputs = (maps, draw(2), draw(2))
    assert gradcheck(made, inputs)
    assert gradgradcheck(made, inputs)


def test_channels_stay_last():
    maps = torch.rand(4, 2, 3, 3).to(memory_format=torch.channels_last).requires_grad_()

    made = normalise_by_support(nn.BatchNorm2d(2), maps, 2).maps
    (slope,) = torch.autograd.grad(made, maps, torch.rand(4, 2, 3, 3))

    assert made.is_contiguous(memory_format=torch.channels_last)
    assert slope.is_contiguous(memory_format=torch.channels_last)
