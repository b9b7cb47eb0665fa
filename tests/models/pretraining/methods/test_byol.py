"""BYOL."""

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from models.pretraining.methods.byol import BYOL, _Objective
from models.training.loop import Batch
from tests.models.pretraining.conftest import conv

SMALL = BYOL(projection=8, hidden=16)


def objective() -> _Objective:
    torch.manual_seed(0)
    built = SMALL.build(conv(), 40)
    assert isinstance(built, _Objective)
    with torch.no_grad():
        for parameter in built.slow_encoder.parameters():
            parameter.add_(0.1)  # otherwise the copy would still be the encoder itself
    return built


def views() -> list[Tensor]:
    generator = Generator().manual_seed(0)
    return [torch.rand(6, 3, 48, 48, generator=generator) for _ in range(2)]


def batch(*images: Tensor) -> Batch:
    return Batch(list(images), torch.arange(6), torch.zeros(6, 0))


def test_each_view_predicts_what_the_copy_makes_of_the_other():
    method, (first, second) = objective(), views()

    loss = float(method.loss(batch(first, second)).detach())

    halves = []
    for view, aim in ((first, second), (second, first)):
        predicted = method.predictor(method.head(method.encoder.features(view)))
        target = method.slow_head(method.slow_encoder.features(aim))
        squared = (F.normalize(predicted, dim=1) - F.normalize(target, dim=1)).square()
        halves.append(float(squared.sum(dim=1).mean().detach()))
    assert loss == pytest.approx(sum(halves) / 2, rel=1e-4)
    assert halves[0] != pytest.approx(halves[1], rel=1e-4)


def test_the_loss_is_the_same_with_the_views_swapped():
    method, (first, second) = objective(), views()

    assert float(method.loss(batch(first, second)).detach()) == pytest.approx(
        float(method.loss(batch(second, first)).detach()), rel=1e-4
    )


def test_gradients_are_those_of_predictions_of_what_stands_still():
    method, (first, second) = objective(), views()
    targets = [method.slow_head(method.slow_encoder.features(v)).detach() for v in (second, first)]

    method.loss(batch(first, second)).backward()
    gradients = [p.grad.clone() for p in method.encoder.parameters()]
    method.zero_grad()
    predicted = [method.predictor(method.head(method.encoder.features(v))) for v in (first, second)]
    cosines = [F.cosine_similarity(p, w).mean() for p, w in zip(predicted, targets, strict=True)]
    (2 - sum(cosines)).backward()

    for gradient, parameter in zip(gradients, method.encoder.parameters(), strict=True):
        assert parameter.grad is not None
        assert torch.allclose(gradient, parameter.grad, atol=1e-5)
    for module in (method.slow_encoder, method.slow_head):
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())


def test_only_the_second_view_is_solarized():
    white = torch.ones(40, 3, 48, 48)
    method = BYOL(solarize=1.0, projection=8, hidden=16).build(conv(), 40)

    (first, second), _ = method.make_views(white, torch.zeros(40, 0), Generator().manual_seed(0))

    assert float(second.max()) <= 0.5 < float(first.max())


def test_the_momentum_rises_to_one():
    method = objective()
    slow = [p.clone() for p in method.slow_encoder.parameters()]
    with torch.no_grad():
        for parameter, fast in zip(slow, method.encoder.parameters(), strict=True):
            fast.copy_(parameter + 1.0)

    method.after_step(1.0)
    assert all(
        torch.equal(a, b) for a, b in zip(slow, method.slow_encoder.parameters(), strict=True)
    )

    method.after_step(0.0)
    step = next(method.slow_encoder.parameters()) - slow[0]
    assert torch.allclose(step, torch.full_like(step, 1 - SMALL.momentum), atol=1e-5)
