"""SimCLR."""

import math

import pytest
import torch
from torch import nn

from models.pretraining.contrastive import BatchContrast
from models.pretraining.losses import Contrast
from models.pretraining.methods.simclr import SimCLR
from tests.models.pretraining.conftest import conv
from tests.models.pretraining.methods.conftest import batch, unit_projections


def objective(**options) -> BatchContrast:
    torch.manual_seed(0)
    built = SimCLR(projection=6, **options).build(conv(), 40)
    assert isinstance(built, BatchContrast)
    return built


@pytest.mark.parametrize(("version", "layers"), [(1, 2), (2, 3)])
def test_the_second_version_has_a_deeper_head(version, layers):
    head = objective(version=version).head

    assert sum(isinstance(module, nn.Linear) for module in head) == layers
    assert head[-1].out_features == 6


def test_each_view_is_told_from_all_others_of_the_batch():
    method, sample = objective(contrast=Contrast(temperature=0.5)), batch(*range(5))

    loss = float(method.loss(sample).detach())

    views = unit_projections(method, sample)
    losses = []
    for i, query in enumerate(views):
        scores = {k: math.exp(float(query @ views[k]) / 0.5) for k in range(10) if k != i}
        losses.append(-math.log(scores[(i + 5) % 10] / sum(scores.values())))
    assert loss == pytest.approx(sum(losses) / 10, rel=1e-4)
    assert method.chance == pytest.approx(math.log(2 * 5 - 1))
