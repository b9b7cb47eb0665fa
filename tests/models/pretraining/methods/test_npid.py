"""NPID."""

import pytest
import torch
from torch import Generator
from torch.nn import functional as F

from models.pretraining.losses import Contrast
from models.pretraining.methods.npid import NPID, _Objective
from models.training.loop import Batch
from tests.models.pretraining.conftest import conv

POSITIONS = [7, 30, 2]


def objective(**options) -> _Objective:
    torch.manual_seed(0)
    built = NPID(projection=8, **options).build(conv(), 40)
    assert isinstance(built, _Objective)
    return built


def batch() -> Batch:
    view = torch.rand(3, 3, 48, 48, generator=Generator().manual_seed(0))
    return Batch([view], torch.tensor(POSITIONS), torch.zeros(3, 0))


def test_an_image_is_told_from_all_others_by_the_memory_before_it_moves():
    method = objective()
    before = method.bank.features.clone()

    outcome = method.pretext_loss(batch())

    scores = F.normalize(outcome.features[0], dim=1) @ before.T / 0.07
    expected = F.cross_entropy(scores, torch.tensor(POSITIONS))
    assert float(outcome.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_as_many_negatives_are_drawn_as_asked_for():
    method = objective(negatives=9, contrast=Contrast(loss="nce"))

    method.loss(batch())

    assert method.chance == pytest.approx(Contrast(loss="nce").chance(9))
