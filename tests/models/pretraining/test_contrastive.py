"""Methods that remember how each image looked; those of a batch have tests of their own."""

import pytest
import torch
from torch import Generator
from torch.nn import functional as F

from models.pretraining.contrastive import MemoryContrast
from models.pretraining.methods.npid import NPID
from models.pretraining.methods.pirl import PIRL
from models.training.loop import Batch
from tests.models.pretraining.conftest import conv

POSITIONS = [7, 30, 2]
OTHERS = [n for n in range(40) if n not in POSITIONS]


def objective(method: type[NPID | PIRL], momentum: float = 0.5) -> MemoryContrast:
    torch.manual_seed(0)
    options = method(projection=8, momentum=momentum)
    built = options.build(conv(), 40)
    assert isinstance(built, MemoryContrast)
    return built


def batch(learner: MemoryContrast) -> Batch:
    generator = Generator().manual_seed(0)
    images = torch.rand(3, 3, 48, 48, generator=generator)
    views, shares = learner.make_views(images, torch.zeros(3, 0), generator)
    return Batch(views, torch.tensor(POSITIONS), shares)


@pytest.mark.parametrize("method", [NPID, PIRL])
@pytest.mark.parametrize("momentum", [0.0, 0.25])
def test_the_memory_of_seen_images_moves_towards_the_whole_by_what_momentum_leaves(
    method, momentum
):
    learner = objective(method, momentum)
    before = learner.bank.features.clone()

    image, *_ = learner.pretext_loss(batch(learner)).features

    latest = F.normalize(image.detach(), dim=1)
    blended = F.normalize(momentum * before[POSITIONS] + (1 - momentum) * latest, dim=1)
    assert torch.allclose(learner.bank.features[POSITIONS], blended, atol=1e-6)
    assert torch.equal(learner.bank.features[OTHERS], before[OTHERS])


@pytest.mark.parametrize("method", [NPID, PIRL])
def test_a_loss_that_teaches_nothing_leaves_the_memory(method):
    learner = objective(method).eval()
    before = learner.bank.features.clone()

    learner.loss(batch(learner))

    assert torch.equal(learner.bank.features, before)
