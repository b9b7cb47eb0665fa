"""PIRL."""

import pytest
import torch
from torch import Generator, nn
from torch.nn import functional as F

from models.encoders import Encoder
from models.images import Preprocessing
from models.pretraining.methods.pirl import PIRL, _Objective
from models.pretraining.views import Views
from models.training.loop import Batch
from tests.models.pretraining.conftest import conv

POSITIONS = [7, 30, 2]
STILL = Views(flip=0.0, colour=0.0, grey=0.0, blur=0.0, crop=1.0)


def objective(**options) -> _Objective:
    torch.manual_seed(0)
    encoder = conv()
    built = PIRL(projection=8, grid=2, **options).build(encoder, 40)
    assert isinstance(built, _Objective)
    return built


def batch() -> Batch:
    generator = Generator().manual_seed(0)
    whole = torch.rand(3, 3, 48, 48, generator=generator)
    parts = torch.rand(3, 4, 3, 20, 20, generator=generator)
    return Batch([whole, parts], torch.tensor(POSITIONS), torch.zeros(3, 0))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_loss_is_of_the_image_and_of_its_tiles_by_their_share(share):
    method = objective(share=share)
    before = method.bank.features.clone()

    outcome = method.pretext_loss(batch())

    of_image, of_parts = (
        F.cross_entropy(F.normalize(features, dim=1) @ before.T / 0.07, torch.tensor(POSITIONS))
        for features in outcome.features
    )
    expected = share * of_parts + (1 - share) * of_image
    assert float(outcome.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_tiles_of_a_view_of_their_own_lie_in_any_order():
    light = torch.tensor([0.1, 0.4, 0.6, 0.9])
    images = light.view(1, 1, 2, 2).repeat_interleave(24, 2).repeat_interleave(24, 3)
    images = images.expand(40, 3, 48, 48)
    method = PIRL(grid=2, projection=8, views=STILL).build(
        Encoder(
            [nn.AdaptiveAvgPool2d(1)],
            embedding_dim=3,
            preprocessing=Preprocessing(resize=48, crop=48, mean=(0.0,) * 3, std=(1.0,) * 3),
        ),
        40,
    )

    (whole, parts), _ = method.make_views(images, torch.zeros(40, 0), Generator().manual_seed(0))

    assert whole.shape == (40, 3, 48, 48)
    assert parts.shape == (40, 4, 3, 20, 20)
    lit = parts.mean(dim=(2, 3, 4))
    orders = {tuple(order) for order in lit.argsort(dim=1).tolist()}
    assert len(orders) > 12  # of 24
    # A crop that is not square moves the border of the tiles by three pixels at most.
    assert torch.allclose(lit.sort(dim=1).values, light.expand(40, 4), atol=0.1)
