"""SwAV."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from models.encoders import Encoder
from models.pretraining import start
from models.pretraining.layers import sinkhorn
from models.pretraining.methods.swav import SwAV, _Objective
from models.training.loop import Batch
from models.training.recipe import Recipe
from tests.models.pretraining.conftest import conv, vit


def objective(encoder: Encoder | None = None, images: int = 40, **options) -> _Objective:
    torch.manual_seed(0)
    built = SwAV(projection=8, **options).build(encoder or conv(), images)
    assert isinstance(built, _Objective)
    return built


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 48, 48, generator=Generator().manual_seed(0))


def batch(method: _Objective) -> Batch:
    views, none = method.make_views(images(), torch.zeros(6, 0), Generator().manual_seed(0))
    return Batch(views, torch.arange(6), none)


def test_prototypes_stay_in_the_first_share_of_the_training_and_move_from_then_on():
    recipe = Recipe(epochs=60, batch_size=20, rate=1e-2, schedule="constant")
    pictures = (255 * images(40)).to(torch.uint8)
    run = start(SwAV(projection=8, local=0, prototypes=4), conv(), pictures, recipe, fresh=True)
    prototypes, head = [], []
    for _, _ in zip(run.steps(), range(5), strict=False):
        prototypes.append(run.objective.prototypes.detach().clone())
        head.append(run.objective.head[0].weight.detach().clone())

    # Of 120 steps: 1/119 is done after the first, and 3/119, above 2 %, after the third.
    changes = [not torch.equal(a, b) for a, b in pairwise(prototypes)]
    assert changes == [False, False, True, True]
    assert all(not torch.equal(a, b) for a, b in pairwise(head))


def test_local_views_are_half_as_large_and_large_ones_come_first():
    views, _ = objective(local=3).make_views(
        images(), torch.zeros(6, 0), Generator().manual_seed(0)
    )

    assert [view.shape[-1] for view in views] == [48, 48, 24, 24, 24]


def test_local_views_show_less_of_the_image():
    line = torch.linspace(0, 1, 48)
    ramps = torch.stack([line.expand(48, 48), line.view(48, 1).expand(48, 48)])
    ramps = torch.cat([ramps, ramps[:1]]).repeat(40, 1, 1, 1)
    still = SwAV().views.__class__(colour=0.0, grey=0.0, blur=0.0)

    views, _ = objective(views=still).make_views(
        ramps, torch.zeros(40, 0), Generator().manual_seed(0)
    )

    areas = [
        torch.stack([v[:, c].flatten(1).amax(1) - v[:, c].flatten(1).amin(1) for c in (0, 1)])
        .prod(dim=0)
        .min()
        for v in views
    ]
    assert max(areas[2:]) < 0.2 <= min(areas[:2]) + 0.01


def test_a_transformer_has_no_local_views():
    views, _ = objective(vit()).make_views(images(), torch.zeros(6, 0), Generator().manual_seed(0))

    assert [view.shape[-1] for view in views] == [48, 48]


def test_every_view_predicts_the_assignments_of_the_other_large_ones():
    method = objective(prototypes=3, local=1, temperature=0.2, epsilon=0.3)
    sample = batch(method)

    loss = float(method.loss(sample).detach())

    prototypes = F.normalize(method.prototypes, dim=1)
    scores = [
        F.normalize(method.head(method.encoder.features(v)), dim=1) @ prototypes.T
        for v in sample.views
    ]
    losses = []
    for n in (0, 1):
        codes = sinkhorn(scores[n].detach(), 0.3)
        for m in {0, 1, 2} - {n}:
            for code, score in zip(codes, (scores[m] / 0.2).exp(), strict=True):
                losses.append(-float(code @ (score / score.sum()).log()))
    assert loss == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_the_queue_helps_after_a_tenth_of_the_training():
    method = objective(prototypes=3, local=0)
    sample, losses = batch(method), {}
    full = F.normalize(torch.randn(2048, 8, generator=Generator().manual_seed(1)), dim=1)
    for progress in (0.05, 0.5):
        method.after_step(progress)
        for filled in (0, 2048):
            method.queue.features, method.queue.filled = full.clone(), torch.tensor(filled)
            losses[progress, filled] = float(method.loss(sample).detach())

    assert losses[0.05, 0] == losses[0.05, 2048] == losses[0.5, 0]
    assert abs(losses[0.5, 2048] - losses[0.5, 0]) > 1e-3


def test_the_queue_holds_the_large_views_of_the_batch():
    method = objective(local=1)
    sample = batch(method)

    outcome = method.pretext_loss(sample)

    assert torch.allclose(method.queue.inside(), torch.cat(list(outcome.features)), atol=1e-6)
    assert method.queue.images[:12].tolist() == [*range(6), *range(6)]


@pytest.mark.parametrize(
    ("setting", "count", "prototypes"), [(0, 40, 2), (0, 4000, 200), (0, 30_000, 1000), (7, 40, 7)]
)
def test_there_is_a_prototype_for_twenty_images(setting, count, prototypes):
    method = objective(images=count, prototypes=setting)

    assert method.prototypes.shape == (prototypes, 8)
    assert method.chance == pytest.approx(math.log(prototypes))
