"""Triplets."""

import pytest
import torch
from torch import Generator

from models.pretraining.contrastive import BatchContrast
from models.pretraining.losses import Contrast
from models.pretraining.methods.triplet import Triplet
from models.training.loop import Batch
from tests.models.pretraining.conftest import conv
from tests.models.pretraining.methods.conftest import batch, unit_projections


def objective(margin: float) -> BatchContrast:
    torch.manual_seed(0)
    contrast = Contrast(loss="triplet", margin=margin)
    method = Triplet(projection=8, contrast=contrast)
    built = method.build(conv(), 40)
    assert isinstance(built, BatchContrast)
    return built


def test_its_views_are_compared_by_triplets():
    assert Triplet().contrast.loss == "triplet"


@pytest.mark.parametrize("margin", [0.1, 0.8])
def test_embeddings_that_are_all_alike_have_the_loss_of_the_margin(margin):
    method = objective(margin)
    last = method.head[-1]
    torch.nn.init.zeros_(last.get_parameter("weight"))
    torch.nn.init.ones_(last.get_parameter("bias"))

    loss = float(method.loss(batch(*range(5))).detach())

    assert loss == pytest.approx(margin, abs=1e-5)
    assert method.chance == margin


def test_views_are_to_be_nearer_by_the_margin_than_the_nearest_image_that_is_farther():
    method, sample = objective(0.3), batch(*range(5))

    loss = float(method.loss(sample).detach())

    views = unit_projections(method, sample)
    losses = []
    for i, query in enumerate(views):
        alike = float(query @ views[(i + 5) % 10])
        unlike = [float(query @ views[k]) for k in range(10) if k % 5 != i % 5]
        farther = [cosine for cosine in unlike if cosine < alike]
        losses.append(max(0.0, max(farther or [min(unlike)]) - alike + 0.3))
    assert loss == pytest.approx(sum(losses) / 10, abs=1e-5)


def test_what_is_nearer_by_more_than_the_margin_teaches_nothing():
    method = objective(0.0)
    for parameter in method.head.parameters():
        parameter.requires_grad_(False)
    view = torch.rand(5, 3, 48, 48, generator=Generator().manual_seed(0))

    loss = method.loss(Batch([view, view], torch.arange(5), torch.zeros(5, 0)))
    loss.backward()

    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert all(float(p.grad.abs().max()) < 1e-6 for p in method.encoder.parameters())
